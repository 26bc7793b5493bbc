"""Conversion of drawings (SVG or PNG) to JPEG images: cropped to their content, on an opaque background.

Every function works on one file and keeps no state, so that processes can share the work. The module imports
little, so that these processes start fast.
"""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageStat

from capfilt.stages.images.phash import perceptual_hash

SVG = "http://www.w3.org/2000/svg"
DUBLIN_CORE = "http://purl.org/dc/elements/1.1/"
DPI = 96
"""resvg's default of 0 makes every size in pt or mm zero."""
FIRST_WIDTH = 320
"""Width in pixels of the first rendering, which finds the content on its page."""
MAX_PAGE_SIDE = 2600
"""Longest side of the second rendering, pixels. Content that is too small even there is enlarged."""
MAX_ASPECT = 3.0
"""Images with a larger aspect ratio are padded with background."""
MARGIN = 0.04
"""Margin on each side, as a share of the longer side."""
WHITE, GRAY = (255, 255, 255), (150, 150, 150)
MIN_LIGHT = 225
"""Luminance from which on a pixel is hardly visible on white."""
MIN_DARK_SHARE = 0.02
"""Share of darker pixels from which on a drawing is visible on white."""
BLANK_SPREAD = 2.0
"""Standard deviation of luminance below which an image is blank."""
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Drawing:
    """The JPEG image made from a drawing."""

    jpeg: bytes
    phash: str


def convert_drawing(path: Path, side: int) -> Drawing | None:
    """Convert an .svg or .png file to an image whose shorter side has `side` pixels.

    Returns:
        None when the image is blank: an empty page, only gradient definitions, one flat color.

    Raises:
        ValueError: the file cannot be rendered.
        ImportError: resvg-py is not installed (extra `clipart`).
    """
    drawn = _render_svg(path.read_bytes(), side) if path.suffix == ".svg" else _open_png(path)
    box = drawn.getchannel("A").getbbox()
    if box is None:
        return None
    image = put_on_background(drawn.crop(box), side)
    if ImageStat.Stat(image.convert("L")).stddev[0] < BLANK_SPREAD:
        return None
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=JPEG_QUALITY)
    return Drawing(sink.getvalue(), perceptual_hash(np.asarray(image)))


def try_convert(path: Path, side: int) -> Drawing | str | None:
    """`convert_drawing`, but return the message of an error that concerns only this file."""
    try:
        return convert_drawing(path, side)
    except (ValueError, OSError) as error:
        return str(error)


def read_svg_texts(data: bytes) -> tuple[str, str]:
    """Title and description in the metadata of an SVG (Dublin Core); "" for a missing one.

    Raises:
        ValueError: the data is not XML.
    """
    root = _parse_xml(data)
    work = next((element for element in root.iter() if element.tag.endswith("}Work")), None)
    if work is None:
        return "", ""
    elements = (work.find(f"{{{DUBLIN_CORE}}}{name}") for name in ("title", "description"))
    title, description = (" ".join((e.text or "").split()) if e is not None else "" for e in elements)
    return title, description


def put_on_background(drawn: Image.Image, side: int) -> Image.Image:
    """RGBA → RGB on a background with margins, aspect ratio at most `MAX_ASPECT`, shorter side `side`."""
    margin = round(MARGIN * max(drawn.size))
    width, height = (length + 2 * margin for length in drawn.size)
    longest = max(width, height)
    width, height = (max(length, math.ceil(longest / MAX_ASPECT)) for length in (width, height))
    page = Image.new("RGBA", (width, height), (*choose_background(drawn), 255))
    page.alpha_composite(drawn, ((width - drawn.width) // 2, (height - drawn.height) // 2))
    scale = side / min(width, height)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    return page.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def choose_background(drawn: Image.Image) -> tuple[int, int, int]:
    """White; gray for a drawing so light that it would be invisible on white."""
    pixels = np.asarray(drawn.convert("RGBA"))
    luminance = np.asarray(drawn.convert("RGB").convert("L"))
    visible = pixels[..., 3] > 127
    if not visible.any():
        return WHITE
    dark = float((luminance[visible] < MIN_LIGHT).mean())
    return GRAY if dark < MIN_DARK_SHARE else WHITE


def _render_svg(data: bytes, side: int) -> Image.Image:
    """The page of an SVG as RGBA, large enough for its content to be `side` pixels wide and high."""
    markup = _decode_svg(data)
    first = _render(markup, FIRST_WIDTH)
    box = first.getchannel("A").getbbox()
    if box is None:
        return first
    zoom = side / max(1, min(box[2] - box[0], box[3] - box[1]))
    zoom = min(zoom, MAX_PAGE_SIDE / max(first.size))
    return first if zoom <= 1 else _render(markup, math.ceil(FIRST_WIDTH * zoom))


def _render(markup: str, width: int) -> Image.Image:
    import resvg_py  # from the optional extra `clipart`

    # Without system fonts, images are the same on every machine; a few signs lose a word.
    png = resvg_py.svg_to_bytes(svg_string=markup, width=width, dpi=DPI, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGBA")


def _decode_svg(data: bytes) -> str:
    """The SVG as text, with the namespace that some old files lack and renderers require."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if _parse_xml(data).tag == "svg":
        text = text.replace("<svg", f'<svg xmlns="{SVG}"', 1)
    return text


def _parse_xml(data: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from error


def _open_png(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGBA")
