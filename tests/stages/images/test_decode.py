"""Decoded images against handmade images whose colors are known, never against the output of the decoder."""

import io
import random
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from capfilt.stages.status import STATUSES, Failure
from tests.stages.images import handmade
from tests.stages.images.samples import BLUE, COLORS, GREEN, RED, WHITE, encode, quarters

SMALL = DecodeConfig(min_side=8)


def corners(data: bytes) -> list[tuple[int, ...]]:
    """Colors in the middle of the four quarters, row by row."""
    with Image.open(io.BytesIO(data)) as image:
        rgb = image.convert("RGB")
    w, h = rgb.size
    return [rgb.getpixel((x, y)) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]


def assert_near(found: list[tuple[int, ...]], expected: list[tuple[int, ...]], tolerance: int = 8) -> None:
    assert np.abs(np.array(found, int) - np.array(expected, int)).max() <= tolerance, (found, expected)


@pytest.mark.parametrize(
    ("format_", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95, "subsampling": 0}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("GIF", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
        ("AVIF", "RGB", {"quality": 95}),
    ],
)
def test_formats(format_: str, mode: str, options: dict[str, object]) -> None:
    stored = decode_and_resize(encode(quarters(mode=mode), format_, **options), SMALL)
    assert_near(corners(stored.image), [RED, GREEN, BLUE, WHITE], tolerance=14)
    assert (stored.width, stored.height, stored.original_width, stored.original_height) == (64, 48, 64, 48)
    assert stored.image.startswith(b"\xff\xd8\xff")


# Display of red|green over blue|white for each EXIF orientation (TIFF 6.0, tag 274).
EXIF = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", EXIF)
def test_exif_orientation_is_applied_and_metadata_dropped(orientation: int, order: str) -> None:
    metadata = handmade.segment(0xFE, b"hello") + handmade.segment(0xE2, b"author")
    data = handmade.jpeg(COLORS, width=64, height=48, head=handmade.exif(orientation, order) + metadata)
    stored = decode_and_resize(data, SMALL)
    assert_near(corners(stored.image), EXIF[orientation])
    sides = (64, 48) if orientation < 5 else (48, 64)
    assert (stored.width, stored.height) == sides == (stored.original_width, stored.original_height)
    for text in (b"Exif", b"author", b"hello"):
        assert text in data and text not in stored.image


INK = [(*(255 - v for v in color), 0) for color in COLORS]
HALF = [tuple(round((v * 128 + 255 * 127) / 255) for v in color) for color in COLORS]
GRAY = [(v,) * 3 for v in (117, 0, 255, 1)]
PALETTE = handmade.chunk(b"PLTE", bytes(v for color in COLORS for v in color))
SECOND_IS_TRANSPARENT = handmade.chunk(b"tRNS", bytes([255, 0]))
GIF_PALETTE = [*COLORS, *[(1, 2, 3)] * 4]
# sRGB's primaries under D50 (ICC), red and green swapped: a viewer shows stored red as green.
SWAPPED = handmade.icc_profile((0.3851, 0.7169, 0.0971), (0.4361, 0.2225, 0.0139), (0.1431, 0.0606, 0.7141))
PROFILE = handmade.segment(0xE2, b"ICC_PROFILE\0\1\1" + SWAPPED)

HANDMADE = {
    "RGB JPEG": (handmade.jpeg(COLORS), COLORS),
    "CMYK JPEG": (handmade.jpeg(INK), COLORS),
    "CMYK TIFF": (handmade.tiff_cmyk(INK), COLORS),
    "black ink": (handmade.tiff_cmyk([(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 138)]),
                  [WHITE, (0, 0, 0), (0, 255, 255), (117, 117, 117)]),
    "RGB PNG": (handmade.png(COLORS), COLORS),
    "16-bit RGB PNG": (handmade.png([tuple(257 * v for v in c) for c in COLORS], depth=16), COLORS),
    "16-bit gray PNG": (handmade.png([(30000,), (0,), (65535,), (257,)], depth=16, color_type=0), GRAY),
    "half transparent PNG": (handmade.png([(*c, 128) for c in COLORS], color_type=6), HALF),
    "16-bit half transparent PNG": (
        handmade.png([(*(257 * v for v in c), 32896) for c in COLORS], depth=16, color_type=6), HALF),
    "gray with alpha": (handmade.png([(117, 255), (9, 0), (255, 255), (1, 255)], color_type=4),
                        [GRAY[0], WHITE, WHITE, GRAY[3]]),
    "palette PNG": (handmade.png([(0,), (1,), (2,), (3,)], color_type=3, extra=PALETTE), COLORS),
    "palette with a transparent entry": (
        handmade.png([(0,), (1,), (2,), (3,)], color_type=3, extra=PALETTE + SECOND_IS_TRANSPARENT),
        [RED, WHITE, BLUE, WHITE]),
    "GIF": (handmade.gif([[0, 1, 2, 3]], GIF_PALETTE), COLORS),
    "animated GIF": (handmade.gif([[0, 1, 2, 3], [3, 3, 3, 3], [1, 1, 1, 1]], GIF_PALETTE), COLORS),
    "transparent GIF": (
        handmade.gif([[0, 1, 2, 3]], GIF_PALETTE, transparent=1), [RED, WHITE, BLUE, WHITE]),
    "color profile": (handmade.jpeg([(255, 0, 0), (0, 255, 0), (0, 0, 255), WHITE], head=PROFILE),
                       [(0, 255, 0), (255, 0, 0), (0, 0, 255), WHITE]),
    "RGB profile in a CMYK image": (handmade.jpeg(INK, head=PROFILE), COLORS),
    "damaged profile": (handmade.jpeg(COLORS, head=PROFILE.replace(b"acsp", b"spca")), COLORS),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDMADE)
def test_handmade_images(name: str) -> None:
    data, expected = HANDMADE[name]
    stored = decode_and_resize(data, SMALL)
    assert_near(corners(stored.image), expected)
    assert b"ICC_PROFILE" not in stored.image and stored.image.startswith(b"\xff\xd8\xff")


def test_alpha_is_composited_on_the_background() -> None:
    half = [(*color, 128) for color in COLORS]
    stored = decode_and_resize(
        handmade.png(half, color_type=6), DecodeConfig(min_side=8, background="#0000ff")
    )
    blue = [
        tuple(round((v * 128 + p * 127) / 255) for v, p in zip(c, (0, 0, 255), strict=True)) for c in COLORS
    ]
    assert_near(corners(stored.image), blue)
    with pytest.raises(ValueError, match="#rrggbb"):
        DecodeConfig(background="white")


def test_stored_as_webp() -> None:
    data = handmade.jpeg(COLORS, head=handmade.exif(6, "<") + PROFILE)
    stored = decode_and_resize(data, DecodeConfig(min_side=8, format="webp", quality=95))
    assert stored.image[:4] == b"RIFF" and stored.image[8:12] == b"WEBP"
    assert not any(part in stored.image for part in (b"EXIF", b"ICCP", b"XMP "))
    pixels = cv2.imdecode(np.frombuffer(stored.image, np.uint8), cv2.IMREAD_COLOR)  # another decoder
    assert pixels.shape == (32, 32, 3)


def test_16_bit_png_of_another_encoder() -> None:
    wide = np.full((32, 32, 3), 30000, np.uint16)
    stored = decode_and_resize(cv2.imencode(".png", wide)[1].tobytes(), SMALL)
    assert_near(corners(stored.image), [(117, 117, 117)] * 4, tolerance=2)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in (RED, GREEN)]
    for format_ in ("WEBP", "PNG", "AVIF"):
        data = encode(frames[0], format_, save_all=True, append_images=frames[1:])
        assert_near(corners(decode_and_resize(data, SMALL).image), [RED] * 4, tolerance=14)


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        ("shorter", 100, (200, 100)),
        ("longer", 100, (100, 50)),
        ("shorter", 400, (400, 200)),
        ("original", 50, (400, 200)),
    ],
)
def test_sizes(resize: str, size: int, expected: tuple[int, int]) -> None:
    data = encode(quarters(400, 200))
    stored = decode_and_resize(data, DecodeConfig(min_side=8, resize=resize, size=size))  # type: ignore[arg-type]
    assert (stored.width, stored.height) == expected
    assert (stored.original_width, stored.original_height) == (400, 200)
    with Image.open(io.BytesIO(stored.image)) as image:
        assert image.size == expected
    assert (stored.image == data) == (resize == "original")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("original", "size", "expected"),
    [((800, 600), 192, (256, 192)), ((511, 767), 255, (255, 383)), ((1025, 769), 96, (128, 96))],
)
def test_jpeg_decoded_at_a_fraction_of_its_size(
    mode: str, original: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    """Compared with the average of all pixels; a shift by half a stored pixel gives a difference above 17."""
    x, y = np.meshgrid(np.linspace(0, 3, original[0]), np.linspace(0, 4, original[1]))
    waves = [128 + 100 * np.sin(k * x) * np.cos(y + k) for k in (1, 2, 3)]
    image = Image.fromarray(np.stack(waves, -1).astype(np.uint8)).convert(mode)
    stored = decode_and_resize(
        encode(image, "JPEG", quality=95), DecodeConfig(min_side=8, size=size, quality=95)
    )
    assert (stored.width, stored.height) == expected
    assert (stored.original_width, stored.original_height) == original
    with Image.open(io.BytesIO(stored.image)) as found:
        difference = np.asarray(found, float) - np.asarray(
            image.convert("RGB").resize(expected, Image.Resampling.BOX), float
        )
    assert np.square(difference).mean() < 6, np.square(difference).mean()


def test_rotated_jpeg_decoded_at_a_fraction_of_its_size() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = encode(quarters(1601, 801), "JPEG", exif=exif, quality=95)
    stored = decode_and_resize(data, DecodeConfig(min_side=8, size=100))
    assert_near(corners(stored.image), EXIF[6], tolerance=14)
    assert (stored.width, stored.height, stored.original_width, stored.original_height) == (
        100,
        200,
        801,
        1601,
    )


def test_output_is_deterministic() -> None:
    data = encode(quarters(300, 500))
    assert decode_and_resize(data, DecodeConfig()) == decode_and_resize(data, DecodeConfig())


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_images_become_failures() -> None:
    """10,000 mutated, truncated, spliced and random byte strings give an image or a listed status."""
    rng = random.Random(5)
    small = quarters(20, 16)
    originals = [
        encode(small, format_)
        for format_ in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "ICO", "PPM", "JPEG2000")
    ]
    originals += [encode(small, "JPEG", progressive=True), *(data for data, _ in HANDMADE.values())]
    statuses = Counter[str]()
    for number in range(10_000):
        try:
            decode_and_resize(mutate(rng, originals, number), SMALL)
        except Failure as caught:
            statuses[caught.status] += 1
        else:
            statuses["success"] += 1
    assert set(statuses) <= set(STATUSES)
    assert min(statuses[name] for name in ("success", "decode", "not_image")) > 500, statuses


def mutate(rng: random.Random, originals: list[bytes], number: int) -> bytes:
    """Random bytes after a valid prefix or none; or an image with bytes changed, truncated or spliced."""
    data = bytearray(originals[number % len(originals)])
    if number % 4 == 0:
        return bytes(data[: rng.choice((0, 0, 4, 12, 30))]) + rng.randbytes(rng.randrange(200))
    for _ in range(rng.randrange(1, 12)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    kind = rng.random()
    if kind < 0.25:
        return bytes(data[: rng.randrange(1, len(data) + 1)])
    if kind < 0.4:
        other, at = rng.choice(originals), rng.randrange(len(data))
        return bytes(data[:at]) + other[rng.randrange(len(other)) :]
    return bytes(data)
