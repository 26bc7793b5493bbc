"""Color profiles of every kind of image, and transparent colors of 16 bits."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from capfilt.models.images.decode import decode_image
from tests.stages.images import handmade
from tests.stages.images.samples import encode

LINEAR = handmade.gray_profile(1.0)
# sRGB's primaries under D50 (ICC), red and green swapped: a viewer shows stored red as green.
SWAPPED = handmade.icc_profile((0.3851, 0.7169, 0.0971), (0.4361, 0.2225, 0.0139), (0.1431, 0.0606, 0.7141))
LEVELS = (0, 60, 128, 255)


def displayed(data: bytes) -> list[list[int]]:
    """Colors in the middle of the four quarters, row by row."""
    return np.asarray(decode_image(data)).astype(int)[[8, 8, 24, 24], [8, 24, 8, 24]].tolist()


def srgb_of_linear(level: int) -> int:
    """IEC 61966-2-1."""
    value = level / 255
    return round(255 * (12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055))


def iccp(profile: bytes) -> bytes:
    return handmade.chunk(b"iCCP", b"name\0\0" + zlib.compress(profile))


GRAY_FILES = {
    "PNG": handmade.png([(v,) for v in LEVELS], color_type=0, extra=iccp(LINEAR)),
    "PNG with alpha": handmade.png([(v, 255) for v in LEVELS], color_type=4, extra=iccp(LINEAR)),
    "16-bit PNG": handmade.png([(v * 257,) for v in LEVELS], depth=16, color_type=0, extra=iccp(LINEAR)),
    "PNG with a transparent level": handmade.png(
        [(v,) for v in LEVELS], color_type=0, extra=iccp(LINEAR) + handmade.chunk(b"tRNS", b"\0\7")),
    "16-bit PNG with a transparent level": handmade.png(
        [(v * 257,) for v in LEVELS], depth=16, color_type=0,
        extra=iccp(LINEAR) + handmade.chunk(b"tRNS", b"\0\7")),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAY_FILES)
def test_the_profile_of_a_gray_image_is_applied(name: str) -> None:
    found = np.array(displayed(GRAY_FILES[name]))
    expected = np.array([[srgb_of_linear(v)] * 3 for v in LEVELS])
    assert np.abs(found - expected).max() <= 2, found


@pytest.mark.parametrize("format_", ["JPEG", "TIFF", "WEBP"])
def test_the_profile_of_a_gray_file_of_another_format_is_applied(format_: str) -> None:
    data = encode(Image.new("L", (32, 32), 128), format_, icc_profile=LINEAR, quality=95)
    # WebP has no gray images: its pixels are RGB, which a gray profile does not fit.
    expected = 128 if format_ == "WEBP" else srgb_of_linear(128)
    assert np.abs(np.array(displayed(data)) - expected).max() <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "CMYK"])
def test_a_profile_of_other_colors_is_ignored(mode: str) -> None:
    image = Image.new("RGB", (32, 32), (100, 100, 100)).convert(mode)
    for profile in (SWAPPED, *([] if mode.startswith("L") else [LINEAR])):
        data = encode(image, "TIFF", icc_profile=profile)
        assert np.abs(np.array(displayed(data)) - 100).max() <= 2


def test_the_profile_of_a_palette_image_is_applied() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    palette = handmade.chunk(b"PLTE", bytes(v for color in colors for v in color))
    extra = iccp(SWAPPED) + palette + handmade.chunk(b"tRNS", bytes([255, 255, 0]))
    found = displayed(handmade.png([(0,), (1,), (2,), (3,)], color_type=3, extra=extra))
    expected = [(0, 255, 0), (255, 0, 0), (255, 255, 255), (255, 255, 255)]
    assert np.abs(np.array(found) - expected).max() <= 8


# ---- transparent colors of 16 bits (PNG, 11.3.2.1)

COLOR = (51457, 15677, 7967)
NEAR = [(51458, 15677, 7967), (51457, 15676, 7967), (51457, 15677, 7966)]
"""Equal in their high bytes."""


def test_a_transparent_16_bit_color() -> None:
    extra = handmade.chunk(b"tRNS", struct.pack(">3H", *COLOR))
    found = displayed(handmade.png([COLOR, *NEAR], depth=16, extra=extra))
    assert found == [[255] * 3, *[[201, 61, 31]] * 3]


def test_a_transparent_16_bit_gray_level() -> None:
    for level in (300, 0, 65535):
        extra = handmade.chunk(b"tRNS", struct.pack(">H", level))
        levels = [level, abs(level - 1), 30000, 30001]
        found = displayed(handmade.png([(v,) for v in levels], depth=16, color_type=0, extra=extra))
        assert found == [[255] * 3, *[[(v + 128) // 257] * 3 for v in levels[1:]]]


def test_a_transparent_8_bit_color_and_level() -> None:
    rgb = handmade.png(
        [(200, 61, 31), (200, 61, 30), (9, 9, 9), (0, 0, 0)],
        extra=handmade.chunk(b"tRNS", struct.pack(">3H", 200, 61, 31)),
    )
    assert displayed(rgb) == [[255] * 3, [200, 61, 30], [9] * 3, [0] * 3]
    one_bit = io.BytesIO()
    Image.new("1", (32, 32), 0).save(one_bit, "PNG", transparency=0)
    assert displayed(one_bit.getvalue()) == [[255] * 3] * 4
