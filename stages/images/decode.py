"""Image bytes in, one stored image or a `Failure` out. The header is checked before any pixel is decoded.

`models.images.decode` makes an image upright, opaque and sRGB; this module adds limits, the stored size and
format, and the perceptual hash. A re-encoded image carries no metadata.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le
from PIL import Image, UnidentifiedImageError

from capfilt.models.images import png
from capfilt.models.images.decode import is_plain, orientation, to_display_rgb
from capfilt.models.images.jpeg_scans import START as JPEG_START
from capfilt.models.images.jpeg_scans import check_and_complete
from capfilt.models.images.opening import PILLOW_MAX_PIXELS, open_image
from capfilt.stages.images.jpeg import decode_jpeg, encode_jpeg
from capfilt.stages.images.phash import perceptual_hash
from capfilt.stages.images.resize import downscale
from capfilt.stages.status import Failure

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "ICO", "TIFF", "JPEG2000", "PPM")
"""Formats of images on the web. Pillow's others start programs (EPS), hold no images (PDF) or are unused, and
every parser of untrusted bytes adds attack surface. HEIC is named but not decoded: pi-heif 1.4 crashes the
process on damaged files."""
FULL_CHROMA_BELOW = 128
"""Pixels of the shorter side below which JPEGs are stored as 4:4:4: in such small images 4:2:0 blurs the
colors visibly, and 4:4:4 costs little."""
_OTHER_KINDS = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), kind)
    for pattern, kind in (
        (rb"\s*(<!doctype html|<html)", "HTML"),
        (rb"\s*<svg", "SVG"),
        (rb"\s*<\?xml.{0,1000}<svg", "SVG"),
        (rb"\s*<\?xml", "XML"),
        (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
        (rb"8BPS", "PSD"),
        (rb"....ftyp", "video"),
        (rb"%PDF", "PDF"),
        (rb"%!PS", "PostScript"),
        (rb"\x1f\x8b", "gzip"),
    )
]
"""Beginnings of files that are no image in one of `FORMATS`."""


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Which images are accepted, and how they are stored."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    min_side: Annotated[int, Ge(1)] = 256
    """Minimum of the shorter side, pixels. The paper uses web images above 256 (section 4.1, footnote)."""
    max_aspect: Annotated[float, Ge(1)] = 10.0
    """Maximum of longer side / shorter side; images beyond it are banners and separators."""
    max_pixels: Annotated[int, Ge(1), Le(PILLOW_MAX_PIXELS)] = 64_000_000
    """Maximum of width x height; decoding takes about 6 bytes of memory per pixel and decoding thread."""
    resize: Literal["shorter", "longer", "original"] = "shorter"
    """`shorter` / `longer`: scale that side down to `size`, keep the aspect ratio, never enlarge, and
    re-encode. `original`: store the downloaded bytes unchanged, metadata included. Only complete images that
    other readers refuse are changed: a JPEG without its end marker gets it, and a PNG with damaged or very
    long metadata is stored as a PNG without."""
    size: Annotated[int, Ge(16), Le(8192)] = 384
    """Pixels of the side that `resize` names; the paper finetunes at 384 and pretrains at 224."""
    format: Literal["jpeg", "webp"] = "jpeg"
    """Format of re-encoded images."""
    quality: Annotated[int, Ge(1), Le(100)] = 92
    """JPEG or WebP quality of re-encoded images."""
    background: str = "#ffffff"
    """Color, as `#rrggbb`, behind transparent pixels."""

    def __post_init__(self) -> None:
        if not re.fullmatch("#[0-9a-fA-F]{6}", self.background):
            raise ValueError(
                f"background {self.background!r}: give a color as #rrggbb, such as #ffffff for white"
            )

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """`background` as (red, green, blue)."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue


@dataclass(frozen=True)
class StoredImage:
    """A stored image and its columns. Sizes are in pixels, with the EXIF orientation applied."""

    image: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    """Size of the downloaded image."""
    phash: str
    """64-bit DCT hash, 16 hex digits."""


def decode_and_resize(data: bytes, config: DecodeConfig) -> StoredImage:
    """Check, decode, resize and encode one image.

    Raises:
        Failure: empty_body, not_image, too_small, too_many_pixels, aspect or decode.
        MemoryError: the machine is out of memory.
    """
    if not data:
        raise Failure("empty_body", "the image has no bytes")
    with _open_image(data, config) as image:
        _check_size(*image.size, config)
        try:
            pixels, original_size = _decode_pixels(image, data, config)
        except (Failure, MemoryError):  # no memory: the machine's failure, the pixels are within the limit
            raise
        except Exception as error:  # decoders raise almost anything on damaged bytes (AVIF: RuntimeError)
            raise Failure("decode", f"damaged or truncated: {type(error).__name__}: {error}") from error
    stored = downscale(pixels, _stored_size(*original_size, config))
    height, width, _ = stored.shape
    return StoredImage(
        image=_original(data, stored, config) if config.resize == "original" else _encode(stored, config),
        width=width,
        height=height,
        original_width=original_size[0],
        original_height=original_size[1],
        phash=perceptual_hash(stored),
    )


def _open_image(data: bytes, config: DecodeConfig) -> Image.Image:
    """Read the header; pixels are decoded later."""
    try:
        return open_image(data, _available_formats(), config.max_pixels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Failure("too_many_pixels", f"{error}; the limit is {config.max_pixels}") from error
    except UnidentifiedImageError as error:
        raise Failure(
            "not_image", f"{len(data)} bytes in no supported image format{_kind_hint(data)}"
        ) from error
    except MemoryError:  # as in `decode_and_resize`
        raise
    except Exception as error:  # as in `decode_and_resize`
        raise Failure("decode", f"damaged header: {type(error).__name__}: {error}") from error


def _check_size(width: int, height: int, config: DecodeConfig) -> None:
    shorter, longer = sorted((width, height))
    size = f"{width} x {height} pixels"
    if shorter < 1:
        raise Failure("decode", f"damaged header: {size}")
    if width * height > config.max_pixels:
        raise Failure("too_many_pixels", f"{size}, the limit is {config.max_pixels} (image.max_pixels)")
    if shorter < config.min_side:
        raise Failure(
            "too_small", f"{size}, the shorter side must be at least {config.min_side} (image.min_side)"
        )
    if longer > config.max_aspect * shorter:
        raise Failure(
            "aspect", f"{size}, the aspect ratio must be at most {config.max_aspect:g} (image.max_aspect)"
        )


def _decode_pixels(
    image: Image.Image, data: bytes, config: DecodeConfig
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image as it is displayed, at a fraction of its size where that is enough for the stored size.

    Returns:
        ([height, width, 3] uint8, (width, height) of the original, upright).
    """
    size = width, height = image.size
    min_size = _stored_size(width, height, config)
    if image.format == "JPEG" and is_plain(image):
        pixels = decode_jpeg(data, size, min_size)
        if pixels is not None:
            return pixels, size
    if 2 * min_size[0] <= width:
        image.draft(None, min_size)  # decodes JPEGs at a fraction of their size, as `decode_jpeg` does
    image.load()
    if image.format != "JPEG":  # Pillow has turned a TIFF, and an icon's image can have another size
        size = image.size
        _check_size(*size, config)
    if orientation(image) >= 5:
        size = size[1], size[0]
    return np.asarray(to_display_rgb(image, config.background_rgb, data)), size


def _available_formats() -> list[str]:
    Image.init()  # loads Pillow's plugins, once; a Pillow built without AVIF still reads the others
    return [name for name in FORMATS if name in Image.OPEN]


def _kind_hint(data: bytes) -> str:
    """Return " (HTML)" for a web page etc., "" for other bytes, so that reports show what was downloaded."""
    for pattern, kind in _OTHER_KINDS:
        if pattern.match(data):
            return f" ({kind})"
    return ""


def _stored_size(width: int, height: int, config: DecodeConfig) -> tuple[int, int]:
    """(width, height) in which an image of this size is stored."""
    if config.resize == "original":
        return width, height
    side = min(width, height) if config.resize == "shorter" else max(width, height)
    scale = min(1.0, config.size / side)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _original(data: bytes, pixels: np.ndarray, config: DecodeConfig) -> bytes:
    """The downloaded file, or what other readers need in its place (see `DecodeConfig.resize`)."""
    if data.startswith(JPEG_START):
        return check_and_complete(data, config.max_pixels)
    if data.startswith(png.SIGNATURE) and not _is_read_by_pillow(data):
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PNG")
        return sink.getvalue()
    return data


def _is_read_by_pillow(data: bytes) -> bool:
    """Whether Pillow itself reads a PNG, metadata included. Its pixels are known to be intact."""
    if png.keep_first_frame(data)[0] == data:  # has no metadata
        return True
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def _encode(pixels: np.ndarray, config: DecodeConfig) -> bytes:
    if config.format == "jpeg":
        return encode_jpeg(pixels, config.quality, full_chroma=min(pixels.shape[:2]) < FULL_CHROMA_BELOW)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "WEBP", quality=config.quality)
    return sink.getvalue()
