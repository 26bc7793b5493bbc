"""Decodes image files to RGB: the first frame, upright, in sRGB, 8 bits per channel, on an opaque background.

The result is what a viewer displays, for any orientation tag, transparency, palette, CMYK, color profile or
bit depth. A file that cannot be decoded completely is an error; there are no partial images. Does not import
torch, because fetch workers decode images without a model.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

from capfilt.models.images.opening import open_image
from capfilt.models.images.png import transparent_16_bit_color

# Pillow's plugins raise these for damaged files, depending on the damage.
_DAMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    RuntimeError,  # the AVIF decoder
    SystemError,  # the JPEG 2000 decoder, when reading fails
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_ORIENTATION_TAG = 0x0112
# EXIF orientation (TIFF 6.0, tag 274) -> the operation that makes the image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

WHITE = (255, 255, 255)

_PROFILE_COLORS = {"L": "GRAY", "LA": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}
"""Mode of an image -> the colors, in the words of ICC.1, that its profile must have."""


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file of any format that Pillow reads.

    Returns:
        The first frame as a viewer displays it: RGB, upright, sRGB, on white where it is transparent.

    Raises:
        ValueError: the file is not an image, is damaged or truncated, or exceeds Pillow's pixel limit.
    """
    try:
        with open_image(data) as image:
            return to_display_rgb(image, WHITE, data)
    except _DAMAGE_ERRORS as error:
        raise ValueError(
            f"cannot decode the image ({len(data)} bytes): {type(error).__name__}: {error}; "
            "not a supported image format, or damaged or truncated"
        ) from error


def to_display_rgb(image: Image.Image, background: tuple[int, int, int], data: bytes) -> Image.Image:
    """Convert an open image to what a viewer displays: RGB, upright, sRGB, on the background color.

    Raises many kinds of exceptions if the file is damaged.

    Args:
        image: from `open_image`.
        data: the file.
    """
    # First of all: Pillow decodes a PNG when it is asked for EXIF, and does not report damage again.
    image.load()
    image = _reveal_transparency(image, data)
    transpose = _UPRIGHT.get(orientation(image))
    upright = image if transpose is None else image.transpose(transpose)
    return _to_opaque_rgb(_to_srgb(_to_8_bits(upright)), background)


def is_plain(image: Image.Image) -> bool:
    """Whether `to_display_rgb` would not change the pixels: RGB, upright, sRGB, without transparency."""
    return (
        image.mode == "RGB"
        and not image.has_transparency_data
        and orientation(image) == 1
        and _color_profile(image) is None
    )


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; width and height are swapped from 5 on.

    Of a loaded image, or of a JPEG. Pillow turns a TIFF when it is loaded, which has orientation 1 then. Of
    an AVIF this is the rotation of its container, not that in EXIF.
    """
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DAMAGE_ERRORS:  # damaged metadata of an intact image: keep the stored orientation
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _color_profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The embedded ICC profile; None if it is sRGB, damaged, or one of other colors than the image's."""
    data = image.info.get("icc_profile")
    if not data or image.mode not in _PROFILE_COLORS:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if profile.profile.xcolor_space.strip() != _PROFILE_COLORS[image.mode]:
            return None
        return None if "srgb" in ImageCms.getProfileDescription(profile).lower() else profile
    except (ImageCms.PyCMSError, *_DAMAGE_ERRORS):
        return None


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert colors from the embedded ICC profile to sRGB; an unusable profile is ignored."""
    profile = _color_profile(image)
    if profile is None:
        return image
    try:
        colors = image.convert(image.mode.removesuffix("A"))
        converted = ImageCms.profileToProfile(
            colors, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, *_DAMAGE_ERRORS):
        return image
    assert converted is not None, "only an in-place conversion returns None"
    if image.mode.endswith("A"):
        converted.putalpha(image.getchannel("A"))
    return converted


def _reveal_transparency(image: Image.Image, data: bytes) -> Image.Image:
    """Turn the transparent color of a PNG with 16 bits per channel into an alpha channel.

    Pillow keeps the high bytes of colors, and compares those with 16 bits of the transparent one.
    """
    if image.format != "PNG":
        return image
    if image.mode.startswith("I"):
        level = image.info.pop("transparency", None)
        if not isinstance(level, int):
            return image
        alpha, image = np.asarray(image) != level, _gray_to_8_bits(image)
    else:
        color = transparent_16_bit_color(data)
        if color is None:
            return image
        image.info.pop("transparency", None)
        high, low = np.array(color) >> 8, np.array(color) & 255
        alpha = ((np.asarray(image) != high) | (_low_bytes(data) != low)).any(axis=-1)
    image = image.copy()
    image.putalpha(Image.fromarray(alpha.astype(np.uint8) * 255))
    return image


def _low_bytes(data: bytes) -> np.ndarray:
    """The low bytes of a PNG with 16-bit colors, [height, width, 3] uint8."""
    with open_image(data) as image:
        # Unpacks the samples, which are big-endian, as if they were little-endian.
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]  # type: ignore[attr-defined]
        return np.asarray(image)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert to L, LA, RGB, RGBA or CMYK, with alpha if anything is transparent; metadata is kept."""
    if image.mode.startswith("I") or image.mode == "F":  # I;16, I;16B, I, F: gray with more than 8 bits
        return _gray_to_8_bits(image)
    if image.mode == "1":
        return image.convert("LA" if image.has_transparency_data else "L")
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
    return image if image.mode in _PROFILE_COLORS else image.convert("RGB")


def _to_opaque_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.endswith("A"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert always copies


def _gray_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale gray values of more than 8 bits. Pillow's own conversion clips at 255, which gives a white image.

    Integers range from 0 to 65535 (Pillow reads 16-bit files so, in modes I and I;16). Floats range from 0 to
    1 if none is greater, else from 0 to 255.
    """
    gray = np.asarray(image).astype(np.float64)
    maximum = 65535.0
    if image.mode == "F":
        maximum = 1.0 if np.nanmax(gray, initial=0.0) <= 1 else 255.0
    scaled = np.clip(np.nan_to_num(gray) * (255.0 / maximum) + 0.5, 0, 255).astype(np.uint8)
    result = Image.fromarray(scaled)
    result.info = image.info.copy()
    return result
