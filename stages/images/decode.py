"""Image bytes → one stored picture, or a status. What the header says is checked before any pixel is decoded.

Upright, on a page, sRGB is what `models.images.decode.decode_image` returns; here the limits, the size and form in which a
picture is stored, and its perceptual hash are added. A picture that is stored anew carries no metadata.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le
from PIL import Image, UnidentifiedImageError

from capfilt.models.images.decode import is_plain, orientation, to_display_rgb
from capfilt.stages.images.jpeg import jpeg_bytes, jpeg_pixels
from capfilt.stages.images.phash import perceptual_hash
from capfilt.stages.images.resize import scaled_down
from capfilt.stages.status import Failure

# Formats of the web. Others that Pillow knows are left out because they start programs (EPS), hold no pictures
# (PDF) or are unused, and every parser of hostile bytes is one more way in.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "ICO", "TIFF", "JPEG2000", "PPM")
PILLOW_LIMIT = 178_956_970  # Pillow refuses beyond twice its own MAX_IMAGE_PIXELS whatever we allow
FULL_CHROMA_BELOW = (
    128  # pixels: 4:2:0 bleeds colours over much of so small a picture, and 4:4:4 costs little
)


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Which pictures are taken and how they are stored."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    min_side: Annotated[int, Ge(1)] = 256
    """Shorter side, pixels, from which a picture is taken. The paper uses web images above 256 (section 4.1,
    footnote)."""
    max_aspect: Annotated[float, Ge(1)] = 10.0
    """Longest side / shortest side up to which a picture is taken; beyond are banners and rules."""
    max_pixels: Annotated[int, Ge(1), Le(PILLOW_LIMIT)] = 64_000_000
    """Width x height up to which pixels are decoded: about 6 bytes of memory per pixel and decoding thread."""
    resize: Literal["shorter", "longer", "original"] = "shorter"
    """`shorter` / `longer`: that side is brought down to `size`, the aspect kept, never enlarged, and the picture is
    stored anew. `original`: the bytes are stored as they came, metadata and all."""
    size: Annotated[int, Ge(16), Le(8192)] = 384
    """Pixels of the side that `resize` names; the paper finetunes at 384 and pretrains at 224."""
    format: Literal["jpeg", "webp"] = "jpeg"
    """Format of pictures that are stored anew."""
    quality: Annotated[int, Ge(1), Le(100)] = 92
    """JPEG or WebP quality of stored pictures."""
    background: str = "#ffffff"
    """Colour, as `#rrggbb`, on which transparent pictures are laid."""

    def __post_init__(self) -> None:
        if not re.fullmatch("#[0-9a-fA-F]{6}", self.background):
            raise ValueError(
                f"background {self.background!r}: a colour as #rrggbb, such as #ffffff for white"
            )

    @property
    def page(self) -> tuple[int, int, int]:
        """`background` as red, green, blue."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue


@dataclass(frozen=True)
class StoredImage:
    """A picture as it is stored."""

    image: bytes
    width: int
    height: int
    """Pixels of the stored picture, as it is seen (EXIF orientation applied)."""
    original_width: int
    original_height: int
    """Pixels of the picture that came, as it is seen."""
    phash: str
    """64-bit DCT hash, 16 hex digits."""


def decode_and_resize(data: bytes, config: DecodeConfig) -> StoredImage:
    """Check, decode, scale and encode one picture.

    Raises:
        Failure: not_image, too_small, too_many_pixels, aspect or decode; empty_body for no bytes.
    """
    if not data:
        raise Failure("empty_body", "no bytes")
    with _opened(data, config) as image:
        _check_size(*image.size, config)
        try:
            seen, original = _decoded(image, data, config)
        except MemoryError:  # ours, not the picture's: its pixels are within the cap
            raise
        except Exception as error:  # decoders raise nearly anything on damaged bytes (AVIF: RuntimeError)
            raise Failure("decode", f"damaged or cut off: {type(error).__name__}: {error}") from error
    stored = scaled_down(seen, _stored_size(*original, config))
    height, width, _ = stored.shape
    return StoredImage(
        image=data if config.resize == "original" else _encoded(stored, config),
        width=width,
        height=height,
        original_width=original[0],
        original_height=original[1],
        phash=perceptual_hash(stored),
    )


def _opened(data: bytes, config: DecodeConfig) -> Image.Image:
    """The picture with its header read; pixels are decoded later."""
    try:
        return Image.open(io.BytesIO(data), formats=_readable())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Failure("too_many_pixels", f"{error}; at most {config.max_pixels} are decoded") from error
    except UnidentifiedImageError as error:
        raise Failure("not_image", f"no known picture format in {len(data)} bytes{_glimpse(data)}") from error
    except MemoryError:  # as above
        raise
    except Exception as error:  # as above
        raise Failure("decode", f"damaged header: {type(error).__name__}: {error}") from error


def _check_size(width: int, height: int, config: DecodeConfig) -> None:
    shorter, longer = sorted((width, height))
    if shorter < 1:
        raise Failure("decode", f"damaged header: {width} x {height} pixels")
    if width * height > config.max_pixels:
        raise Failure("too_many_pixels", f"{width} x {height} pixels exceed {config.max_pixels}")
    if shorter < config.min_side:
        raise Failure("too_small", f"{width} x {height} pixels; the shorter side must be {config.min_side}")
    if longer > config.max_aspect * shorter:
        raise Failure("aspect", f"{width} x {height} pixels; the aspect may be {config.max_aspect:g} at most")


def _decoded(image: Image.Image, data: bytes, config: DecodeConfig) -> tuple[np.ndarray, tuple[int, int]]:
    """What is seen ([height, width, 3], no smaller than it is stored), and (width, height) of the whole picture, upright."""
    size = width, height = image.size
    least = _stored_size(width, height, config)
    if image.format == "JPEG" and is_plain(image):
        pixels = jpeg_pixels(data, size, least)
        if pixels is not None:
            return pixels, size
    if 2 * least[0] <= width:
        image.draft(None, least)  # of a JPEG, as in `jpeg_pixels`
    if orientation(image) >= 5:
        size = height, width
    return np.asarray(to_display_rgb(image, config.page)), size


def _readable() -> list[str]:
    Image.init()  # loads Pillow's plugins, once; one that was built without AVIF still reads the others
    return [form for form in FORMATS if form in Image.OPEN]


def _glimpse(data: bytes) -> str:
    """What unknown bytes look like, so that a thousand web pages are recognised as such in a report."""
    start = data[:256].lstrip().lower()
    for mark, kind in ((b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<svg", "SVG"), (b"<?xml", "XML")):
        if start.startswith(mark):
            return f" ({kind})"
    return ""


def _stored_size(width: int, height: int, config: DecodeConfig) -> tuple[int, int]:
    """Width and height in which a picture of these sides is stored."""
    if config.resize == "original":
        return width, height
    side = min(width, height) if config.resize == "shorter" else max(width, height)
    scale = min(1.0, config.size / side)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _encoded(pixels: np.ndarray, config: DecodeConfig) -> bytes:
    if config.format == "jpeg":
        return jpeg_bytes(pixels, config.quality, full_chroma=min(pixels.shape[:2]) < FULL_CHROMA_BELOW)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "WEBP", quality=config.quality)
    return sink.getvalue()
