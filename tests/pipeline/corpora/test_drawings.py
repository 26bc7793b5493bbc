"""Conversion of drawings to images, on files made by hand."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capfilt.pipeline.corpora import drawings
from capfilt.pipeline.corpora.drawings import (
    GRAY,
    WHITE,
    choose_background,
    convert_drawing,
    put_on_background,
    read_svg_texts,
    try_convert,
)
from tests.pipeline.corpora.svg_cases import XMLNS, make_square, make_svg


def convert(tmp_path: Path, data: bytes, side: int = 64) -> np.ndarray | None:
    """Pixels of the image made from an SVG."""
    (tmp_path / "a.svg").write_bytes(data)
    drawing = convert_drawing(tmp_path / "a.svg", side)
    return None if drawing is None else np.asarray(Image.open(io.BytesIO(drawing.jpeg)), dtype=int)


@pytest.mark.parametrize("xmlns", [XMLNS, ""])
def test_svg_is_cropped_to_its_content_on_white(tmp_path: Path, xmlns: str) -> None:
    pixels = convert(tmp_path, make_svg(make_square("#d02030"), xmlns=xmlns))
    assert pixels is not None and pixels.shape == (64, 64, 3)
    assert np.abs(pixels[8:-8, 8:-8] - (0xD0, 0x20, 0x30)).max() < 16
    assert np.abs(pixels[[0, -1], :] - WHITE).max() < 16


def test_white_drawing_is_put_on_gray(tmp_path: Path) -> None:
    pixels = convert(tmp_path, make_svg(make_square("white")))
    assert pixels is not None
    assert np.abs(pixels[32, 32] - 255).max() < 16 and np.abs(pixels[0, 0] - GRAY).max() < 12


@pytest.mark.parametrize(
    "shape", ["", "<defs><linearGradient id='g'/></defs>", '<rect width="0" height="9"/>']
)
def test_blank_drawing_gives_no_image(tmp_path: Path, shape: str) -> None:
    assert convert(tmp_path, make_svg(shape)) is None


@pytest.mark.parametrize(("dark", "background"), [(1, GRAY), (2, WHITE)])
def test_two_percent_of_darker_pixels_are_visible_on_white(
    dark: int, background: tuple[int, int, int]
) -> None:
    drawn = np.full((10, 10, 4), 255, dtype=np.uint8)
    drawn[0, :dark, :3] = 224
    assert choose_background(Image.fromarray(drawn)) == background


@pytest.mark.parametrize(("luminance", "background"), [(224, WHITE), (225, GRAY)])
def test_pixels_are_dark_below_the_limit_of_luminance(
    luminance: int, background: tuple[int, int, int]
) -> None:
    drawn = np.full((10, 10, 4), 255, dtype=np.uint8)
    drawn[..., :3] = luminance
    assert choose_background(Image.fromarray(drawn)) == background


@pytest.mark.parametrize(("alpha", "background"), [(127, GRAY), (128, WHITE)])
def test_background_is_chosen_by_the_opaque_pixels(alpha: int, background: tuple[int, int, int]) -> None:
    drawn = np.full((10, 10, 4), 255, dtype=np.uint8)
    drawn[:5] = (0, 0, 0, alpha)
    assert choose_background(Image.fromarray(drawn)) == background


@pytest.mark.parametrize(("difference", "is_blank"), [(3, True), (5, False)])
def test_nearly_flat_image_is_blank(tmp_path: Path, difference: int, is_blank: bool) -> None:
    """Half of the pixels differ by `difference`: the standard deviation is half of it, on both sides of 2."""
    canvas = np.full((100, 100, 4), 255, dtype=np.uint8)
    canvas[:, :50, :3] = 255 - difference
    Image.fromarray(canvas).crop((1, 0, 99, 100)).save(tmp_path / "a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawings, "MARGIN", 0)
        assert (convert_drawing(tmp_path / "a.png", 100) is None) == is_blank


def test_long_drawing_is_padded_at_its_sides() -> None:
    pencil = Image.new("RGBA", (500, 10), (200, 30, 30, 255))
    image = put_on_background(pencil, 32)
    assert image.size == (96, 32)
    assert image.getpixel((48, 16))[1] < 150 and image.getpixel((48, 2)) == WHITE


def test_margin_is_four_percent_of_the_longer_side_on_each_side() -> None:
    image = put_on_background(Image.new("RGBA", (100, 100), (200, 30, 30, 255)), 108)
    assert image.size == (108, 108)
    red = np.asarray(image)[..., 1] == 30
    assert red[4:104, 4:104].all() and red.sum() == 100 * 100


def test_small_content_is_rendered_again_at_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A square of 10 mm has 15 pixels in the first rendering; enlarging these would blur its edges."""
    svg = make_svg(make_square("black", side=10))

    def blurred_pixels() -> int:
        pixels = convert(tmp_path, svg)
        assert pixels is not None
        row = pixels[32, :, 0]
        return int(((row > 50) & (row < 205)).sum())

    assert blurred_pixels() <= 4
    monkeypatch.setattr(drawings, "MAX_PAGE_SIDE", 1)
    assert blurred_pixels() > 4


def test_png_with_alpha_is_cropped(tmp_path: Path) -> None:
    canvas = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    canvas.paste((20, 120, 40, 255), (10, 10, 30, 30))
    canvas.save(tmp_path / "a.png")
    drawing = convert_drawing(tmp_path / "a.png", 64)
    assert drawing is not None
    pixels = np.asarray(Image.open(io.BytesIO(drawing.jpeg)), dtype=int)
    assert np.abs(pixels[32, 32] - (20, 120, 40)).max() < 16


def test_broken_file_gives_its_error_as_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_bytes(b"<svg")
    assert str(try_convert(tmp_path / "a.svg", 64)).startswith("not XML")
    (tmp_path / "a.png").write_bytes(b"no image")
    assert "cannot identify image file" in str(try_convert(tmp_path / "a.png", 64))


def test_texts_of_an_svg_are_read_from_its_metadata() -> None:
    assert read_svg_texts(make_svg("", title=" A  cat\n", description="sits")) == ("A cat", "sits")
    assert read_svg_texts(make_svg("")) == ("", "")
    assert read_svg_texts(b"<svg/>") == ("", "")
    with pytest.raises(ValueError, match="not XML"):
        read_svg_texts(b"<svg")
