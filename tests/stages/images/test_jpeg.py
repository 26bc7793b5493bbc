"""Pixels as Pillow gives them, which is the oracle here, and no verdict on files that are not as they should be."""

import io

import numpy as np
import pytest
from PIL import Image

from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from capfilt.stages.images.jpeg import jpeg_bytes, jpeg_pixels
from capfilt.stages.status import Failure

SIZE = (333, 217)


def scene() -> Image.Image:
    """Waves, edges and noise, so that every filter has something to do."""
    x, y = np.meshgrid(np.linspace(0, 9, SIZE[0]), np.linspace(0, 7, SIZE[1]))
    pixels = np.stack([128 + 90 * np.sin(k * x) * np.cos(y + k) for k in (1, 2, 3)], -1)
    pixels[40:90, 60:200] = (250, 20, 30)
    pixels += np.random.default_rng(0).normal(0, 12, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(**options: object) -> bytes:
    sink = io.BytesIO()
    scene().save(sink, "JPEG", **options)
    return sink.getvalue()


def by_pillow(data: bytes, least: tuple[int, int] | None = None) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        if least is not None:
            image.draft(None, least)
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
@pytest.mark.parametrize("least", [SIZE, (166, 108), (83, 54), (41, 27), (9, 9)])
def test_pixels_are_those_of_pillow(options: dict[str, object], least: tuple[int, int]) -> None:
    data = encoded(**options)
    pixels = jpeg_pixels(data, SIZE, least)
    assert pixels is not None and pixels.dtype == np.uint8
    height, width, _ = pixels.shape
    assert width >= least[0] and height >= least[1]
    if (width, height) == SIZE or width in (167, 84, 42):  # Pillow knows these parts alone
        assert np.array_equal(pixels, by_pillow(data, least))


def test_the_smallest_part_that_is_large_enough_is_taken() -> None:
    assert [jpeg_pixels(encoded(), SIZE, (w, 1)).shape[1] for w in (333, 168, 167, 126, 125, 84, 42, 9)] == [
        333, 333, 167, 167, 125, 84, 42, 42,
    ]  # fmt: skip


@pytest.mark.parametrize("part", [slice(None, -3000), slice(None, -2), slice(None, 30)])
def test_what_is_cut_off_is_left_to_pillow(part: slice) -> None:
    assert jpeg_pixels(encoded()[part], SIZE, SIZE) is None
    with pytest.raises(Failure) as caught:
        decode_and_resize(encoded()[part], DecodeConfig(min_side=8))
    assert caught.value.status == "decode"


def test_defects_that_pillow_does_not_mind_lose_no_picture() -> None:
    data = encoded()
    at = len(data) // 2
    for odd in (data[:-2] + b"\0\0\0\0" + data[-2:], data[:at] + data[at + 40 :], data + b"more"):
        pixels = jpeg_pixels(odd, SIZE, SIZE)
        assert pixels is None or np.array_equal(pixels, by_pillow(odd))
        made = decode_and_resize(odd, DecodeConfig(min_side=8))
        assert (made.width, made.height) == SIZE


def test_a_header_that_says_something_else_is_not_believed() -> None:
    assert jpeg_pixels(encoded(), (SIZE[0] + 1, SIZE[1]), (10, 10)) is None


@pytest.mark.parametrize(("full_chroma", "subsampling"), [(True, 0), (False, 2)])
@pytest.mark.parametrize("quality", [40, 92, 100])
def test_bytes_are_those_of_pillow(full_chroma: bool, subsampling: int, quality: int) -> None:
    pixels = np.asarray(scene())[:, ::-1]  # not contiguous
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=quality, subsampling=subsampling)
    assert jpeg_bytes(pixels, quality, full_chroma=full_chroma) == sink.getvalue()
