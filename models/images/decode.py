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

# Pillow's plugins raise these for damaged files, depending on the damage.
_DAMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    RuntimeError,  # the AVIF decoder
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


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file of any format that Pillow reads.

    Returns:
        The first frame as a viewer displays it: RGB, upright, sRGB, on white where it is transparent.

    Raises:
        ValueError: the file is not an image, is damaged or truncated, or exceeds Pillow's pixel limit.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return to_display_rgb(image, WHITE)
    except _DAMAGE_ERRORS as error:
        raise ValueError(
            f"cannot decode the image ({len(data)} bytes): {type(error).__name__}: {error}; "
            "not a supported image format, or damaged or truncated"
        ) from error


def to_display_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Convert an open image to what a viewer displays: RGB, upright, sRGB, on the background color.

    Raises many kinds of exceptions if the file is damaged.
    """
    image.load()
    transpose = _UPRIGHT.get(orientation(image))
    upright = image if transpose is None else image.transpose(transpose)
    return _to_rgb(_to_srgb(upright), background)


def is_plain(image: Image.Image) -> bool:
    """Whether `to_display_rgb` would not change the pixels: RGB, upright, sRGB, without transparency."""
    return (
        image.mode == "RGB"
        and not image.has_transparency_data
        and orientation(image) == 1
        and _color_profile(image) is None
    )


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; width and height are swapped from 5 on."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DAMAGE_ERRORS:  # damaged metadata of an intact image: keep the stored orientation
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _color_profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The embedded ICC profile; None if it is sRGB, is damaged, or the image is neither RGB nor CMYK."""
    data = image.info.get("icc_profile")
    if not data or image.mode not in ("RGB", "RGBA", "CMYK"):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        return None if "srgb" in ImageCms.getProfileDescription(profile).lower() else profile
    except (ImageCms.PyCMSError, *_DAMAGE_ERRORS):
        return None


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert colors from the embedded ICC profile to sRGB; an unusable profile is ignored."""
    profile = _color_profile(image)
    if profile is None:
        return image
    try:
        colors = image.convert("RGB") if image.mode == "RGBA" else image
        converted = ImageCms.profileToProfile(
            colors, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, *_DAMAGE_ERRORS):
        return image
    assert converted is not None, "only an in-place conversion returns None"
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    return converted


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # I;16, I;16B, I, F: gray with more than 8 bits
        return _gray_to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
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
    return Image.fromarray(np.clip(np.nan_to_num(gray) * (255.0 / maximum) + 0.5, 0, 255).astype(np.uint8))
