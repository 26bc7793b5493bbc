"""Which images are accepted, and in which size and quality they are stored."""

import io
from typing import Any

import pytest
from PIL import Image, JpegImagePlugin
from pydantic import TypeAdapter, ValidationError

from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from capfilt.stages.status import Failure
from tests.stages.images.samples import encode, png_header, quarters

SMALL = DecodeConfig(min_side=8)


def failure_status(data: bytes, config: DecodeConfig = SMALL) -> str:
    with pytest.raises(Failure) as caught:
        decode_and_resize(data, config)
    assert caught.value.message and "\n" not in caught.value.message
    return caught.value.status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "empty_body"),
        (b"<!DOCTYPE html><p>gone", "not_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_image"),
        (encode(quarters(), "JPEG")[:400], "decode"),
        (encode(quarters(), "PNG")[:60], "decode"),
        (png_header(50_000, 50_000), "too_many_pixels"),
        (png_header(9_000, 9_000), "too_many_pixels"),
        (png_header(64, 64), "decode"),
        (encode(Image.new("RGB", (7, 70))), "too_small"),
        (encode(Image.new("RGB", (8, 81))), "aspect"),
    ],
)
def test_failures(data: bytes, status: str) -> None:
    assert failure_status(data) == status


@pytest.mark.parametrize(
    ("width", "height", "limits"),
    [
        (70, 30, {"max_pixels": 2100}),
        (30, 300, {"max_aspect": 10.0}),
        (301, 30, {"max_aspect": 301 / 30}),
        (90, 30, {"min_side": 30}),
        (1, 1, {"min_side": 1}),
    ],
)
def test_image_at_the_limit_is_accepted(width: int, height: int, limits: dict[str, Any]) -> None:
    data = encode(Image.new("RGB", (width, height)))
    assert decode_and_resize(data, DecodeConfig(**({"min_side": 8} | limits))).width == width


@pytest.mark.parametrize(
    ("width", "height", "limits", "status", "message"),
    [
        (70, 30, {"max_pixels": 2099}, "too_many_pixels", "70 x 30 pixels, the limit is 2099"),
        (30, 301, {"max_aspect": 10.0}, "aspect", "30 x 301 pixels, the aspect ratio must be at most 10 "),
        (29, 90, {"min_side": 30}, "too_small", "29 x 90 pixels, the shorter side must be at least 30 "),
    ],
)
def test_image_beyond_the_limit_fails(
    width: int, height: int, limits: dict[str, Any], status: str, message: str
) -> None:
    with pytest.raises(Failure, match=message) as caught:
        decode_and_resize(
            encode(Image.new("RGB", (width, height))), DecodeConfig(**({"min_side": 8} | limits))
        )
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("field", "smallest", "largest"),
    [
        ("min_side", 1, 100_000),
        ("size", 16, 8192),
        ("quality", 1, 100),
        ("max_pixels", 1, 2 * (Image.MAX_IMAGE_PIXELS or 0)),  # Pillow itself rejects larger images
    ],
)
def test_ranges_of_settings(field: str, smallest: int, largest: int) -> None:
    check = TypeAdapter(DecodeConfig).validate_python
    for value in (smallest, largest):
        assert getattr(check({field: value}), field) == value
    for value in (smallest - 1, largest + 1):
        if value != 100_001:  # min_side has no maximum
            with pytest.raises(ValidationError):
                check({field: value})


@pytest.mark.parametrize(("height", "sampling"), [(127, "4:4:4"), (128, "4:2:0")])
def test_colors_of_small_jpegs_are_stored_at_full_resolution(height: int, sampling: str) -> None:
    stored = decode_and_resize(encode(quarters(300, height)), SMALL)
    with Image.open(io.BytesIO(stored.image)) as image:
        assert JpegImagePlugin.get_sampling(image) == {"4:4:4": 0, "4:2:0": 2}[sampling]


def test_defaults_of_stored_images() -> None:
    """Shorter side 384, JPEG quality 92."""
    stored = decode_and_resize(encode(quarters(900, 600)), DecodeConfig())
    assert (stored.width, stored.height) == (576, 384)
    sink = io.BytesIO()
    Image.new("RGB", (16, 16)).save(sink, "JPEG", quality=92)
    with Image.open(io.BytesIO(stored.image)) as image, Image.open(sink) as expected:
        assert image.quantization == expected.quantization  # type: ignore[attr-defined]


def test_default_minimum_is_the_papers_256_pixels() -> None:
    assert failure_status(encode(Image.new("RGB", (255, 400))), DecodeConfig()) == "too_small"
    assert decode_and_resize(encode(Image.new("RGB", (256, 400))), DecodeConfig()).height == 400
