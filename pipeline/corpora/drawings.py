"""Drawings, SVG or PNG, as photographs would come: trimmed to what is drawn, on a background, as JPEG.

Works on one file at a time and keeps nothing, so that processes can share the work; imports little, so that they
start fast.
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
DPI = 96  # resvg's default of 0 makes every size in pt or mm zero
FIRST_WIDTH = 320  # pixels of the rendering in which the drawing is looked for on its page
LARGEST_PAGE = 2600  # pixels; a drawing that is tiny on its page is rendered no larger than this and enlarged
MAX_ASPECT = 3.0  # longer pencils get background at their sides
MARGIN = 0.04  # of the longer side, all round
WHITE, GREY = (255, 255, 255), (150, 150, 150)
LIGHT = 225  # luminance above which a pixel would not show on white
BLANK_SPREAD = 2.0  # standard deviation of grey levels below which nothing is to be seen
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Drawing:
    """A picture made of a drawing."""

    jpeg: bytes
    phash: str


def draw(path: Path, side: int) -> Drawing | None:
    """Picture of an .svg or .png file, its shorter side `side` pixels long.

    Returns:
        None when nothing is to be seen: an empty page, a file of gradient definitions, one flat colour.

    Raises:
        ValueError: the file cannot be rendered.
        ImportError: resvg-py is not installed (extra `clipart`).
    """
    drawn = _rendered(path.read_bytes(), side) if path.suffix == ".svg" else _opened(path)
    box = drawn.getchannel("A").getbbox()
    if box is None:
        return None
    picture = framed(drawn.crop(box), side)
    if ImageStat.Stat(picture.convert("L")).stddev[0] < BLANK_SPREAD:
        return None
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=JPEG_QUALITY)
    return Drawing(sink.getvalue(), perceptual_hash(np.asarray(picture)))


def attempt(path: Path, side: int) -> Drawing | str | None:
    """`draw`, with the error of one bad file as a text."""
    try:
        return draw(path, side)
    except (ValueError, OSError) as error:
        return str(error)


def svg_texts(data: bytes) -> tuple[str, str]:
    """Title and description that an SVG's own metadata gives (Dublin Core); "" where there is none.

    Raises:
        ValueError: not XML.
    """
    root = _parsed(data)
    work = next((element for element in root.iter() if element.tag.endswith("}Work")), None)
    if work is None:
        return "", ""
    found = (work.find(f"{{{DUBLIN_CORE}}}{name}") for name in ("title", "description"))
    title, description = (" ".join((e.text or "").split()) if e is not None else "" for e in found)
    return title, description


def framed(drawn: Image.Image, side: int) -> Image.Image:
    """RGBA → RGB on its background, with a margin, at most `MAX_ASPECT` long, shorter side `side`."""
    margin = round(MARGIN * max(drawn.size))
    width, height = (length + 2 * margin for length in drawn.size)
    longest = max(width, height)
    width, height = (max(length, math.ceil(longest / MAX_ASPECT)) for length in (width, height))
    page = Image.new("RGBA", (width, height), (*background(drawn), 255))
    page.alpha_composite(drawn, ((width - drawn.width) // 2, (height - drawn.height) // 2))
    scale = side / min(width, height)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    return page.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def background(drawn: Image.Image) -> tuple[int, int, int]:
    """White, or grey for a drawing that white would swallow: nearly all that is drawn is light."""
    pixels = np.asarray(drawn.convert("RGBA"))
    grey = np.asarray(drawn.convert("RGB").convert("L"))
    visible = pixels[..., 3] > 127
    if not visible.any():
        return WHITE
    dark = float((grey[visible] < LIGHT).mean())
    return GREY if dark < 0.02 else WHITE


def _rendered(data: bytes, side: int) -> Image.Image:
    """The page of an SVG as RGBA, large enough for its drawing to be `side` pixels wide and high."""
    markup = _markup(data)
    first = _render(markup, FIRST_WIDTH)
    box = first.getchannel("A").getbbox()
    if box is None:
        return first
    zoom = side / max(1, min(box[2] - box[0], box[3] - box[1]))
    zoom = min(zoom, LARGEST_PAGE / max(first.size))
    return first if zoom <= 1 else _render(markup, math.ceil(FIRST_WIDTH * zoom))


def _render(markup: str, width: int) -> Image.Image:
    import resvg_py  # the extra `clipart`; nothing else needs it

    # Without system fonts: pictures are the same on every machine; a few signs lose a word.
    png = resvg_py.svg_to_bytes(svg_string=markup, width=width, dpi=DPI, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGBA")


def _markup(data: bytes) -> str:
    """The SVG as text, with the namespace that some old files lack and renderers insist on."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if _parsed(data).tag == "svg":
        text = text.replace("<svg", f'<svg xmlns="{SVG}"', 1)
    return text


def _parsed(data: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML: {error}") from error


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGBA")
