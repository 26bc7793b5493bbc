"""JPEG decoding and encoding: pixels and bytes equal to Pillow's; unusual files are left to Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from capfilt.stages.images.jpeg import decode_jpeg, encode_jpeg
from capfilt.stages.status import Failure

SIZE = (333, 217)


def scene() -> Image.Image:
    """Waves, edges and noise, so that differences between decoders show."""
    x, y = np.meshgrid(np.linspace(0, 9, SIZE[0]), np.linspace(0, 7, SIZE[1]))
    pixels = np.stack([128 + 90 * np.sin(k * x) * np.cos(y + k) for k in (1, 2, 3)], -1)
    pixels[40:90, 60:200] = (250, 20, 30)
    pixels += np.random.default_rng(0).normal(0, 12, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(**options: object) -> bytes:
    sink = io.BytesIO()
    scene().save(sink, "JPEG", **options)
    return sink.getvalue()


def decode_with_pillow(data: bytes, min_size: tuple[int, int] | None = None) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        if min_size is not None:
            image.draft(None, min_size)
        return np.asarray(image)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 40, "subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
        {"comment": b"hello", "dpi": (72, 72)},
    ],
)
@pytest.mark.parametrize("min_size", [SIZE, (166, 108), (83, 54), (41, 27), (9, 9)])
def test_pixels_equal_pillows(options: dict[str, object], min_size: tuple[int, int]) -> None:
    data = encode(**options)
    pixels = decode_jpeg(data, SIZE, min_size)
    assert pixels is not None and pixels.dtype == np.uint8
    height, width, _ = pixels.shape
    assert width >= min_size[0] and height >= min_size[1]
    if (width, height) == SIZE or width in (167, 84, 42):  # the only fractions that Pillow has
        assert np.array_equal(pixels, decode_with_pillow(data, min_size))


def test_smallest_sufficient_fraction() -> None:
    assert [decode_jpeg(encode(), SIZE, (w, 1)).shape[1] for w in (333, 168, 167, 126, 125, 84, 42, 9)] == [
        333, 333, 167, 167, 125, 84, 42, 42,
    ]  # fmt: skip


@pytest.mark.parametrize("part", [slice(None, -3000), slice(None, -10), slice(None, 30)])
def test_truncated_file_is_left_to_pillow(part: slice) -> None:
    assert decode_jpeg(encode()[part], SIZE, SIZE) is None
    with pytest.raises(Failure) as caught:
        decode_and_resize(encode()[part], DecodeConfig(min_side=8))
    assert caught.value.status == "decode"


def test_defects_that_pillow_accepts_lose_no_image() -> None:
    data = encode()
    at = len(data) // 2
    for damaged in (data[:-2] + b"\0\0\0\0" + data[-2:], data[:at] + data[at + 40 :], data + b"more"):
        pixels = decode_jpeg(damaged, SIZE, SIZE)
        assert pixels is None or np.array_equal(pixels, decode_with_pillow(damaged))
        stored = decode_and_resize(damaged, DecodeConfig(min_side=8))
        assert (stored.width, stored.height) == SIZE


def test_size_that_differs_from_the_header() -> None:
    assert decode_jpeg(encode(), (SIZE[0] + 1, SIZE[1]), (10, 10)) is None


@pytest.mark.parametrize(("full_chroma", "subsampling"), [(True, 0), (False, 2)])
@pytest.mark.parametrize("quality", [40, 92, 100])
def test_bytes_equal_pillows(full_chroma: bool, subsampling: int, quality: int) -> None:
    pixels = np.asarray(scene())[:, ::-1]  # not contiguous
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=quality, subsampling=subsampling)
    assert encode_jpeg(pixels, quality, full_chroma=full_chroma) == sink.getvalue()
