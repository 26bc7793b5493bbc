"""Encoded bytes to an RGB picture: upright, on a page, in sRGB, eight bits a channel, the first frame.

Whatever the file holds (a turned photograph, transparency, a palette, CMYK, a colour profile, 16 bits), what comes
out is what a person would see on a page, white by default; what cannot be decoded whole is an error, never half a picture. Without torch:
fetch workers decode too, and need no model.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

# Pillow's plugins raise these on damaged files, depending on which byte is wrong.
_DAMAGE = (
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
# EXIF orientation (TIFF 6.0, tag 274) -> what makes the picture upright.
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


def decode_image(data: bytes, page: tuple[int, int, int] = WHITE) -> Image.Image:
    """The picture in `data` (any format Pillow reads; an animation's first frame): RGB, upright, on a page of colour
    `page`, where it is transparent.

    Raises ValueError for what is no image, damaged, truncated, or beyond Pillow's pixel limit.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return to_display_rgb(image, page)
    except _DAMAGE as error:
        raise ValueError(
            f"cannot decode the image ({len(data)} bytes): {type(error).__name__}: {error}; "
            "it is no image Pillow reads, or damaged or truncated"
        ) from error


def to_display_rgb(image: Image.Image, page: tuple[int, int, int]) -> Image.Image:
    """What a viewer shows of an opened picture, on a page of that colour: upright, RGB, sRGB. Raises nearly anything where
    it is damaged."""
    image.load()
    turn = _UPRIGHT.get(orientation(image))
    return _to_rgb(_in_srgb(image if turn is None else image.transpose(turn)), page)


def is_plain(image: Image.Image) -> bool:
    """Whether the stored pixels are what a viewer shows: RGB, upright, in sRGB, nothing of it transparent."""
    return (
        image.mode == "RGB"
        and not image.has_transparency_data
        and orientation(image) == 1
        and _profile(image) is None
    )


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; from 5 on width and height are exchanged."""
    try:
        found = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DAMAGE:  # broken metadata around a whole picture: show it as it is stored
        return 1
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def _profile(image: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The embedded ICC profile, unless it is sRGB's, damaged, or fits no RGB or CMYK."""
    data = image.info.get("icc_profile")
    if not data or image.mode not in ("RGB", "RGBA", "CMYK"):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        return None if "srgb" in ImageCms.getProfileDescription(profile).lower() else profile
    except (ImageCms.PyCMSError, *_DAMAGE):
        return None


def _in_srgb(image: Image.Image) -> Image.Image:
    """Colours of an embedded ICC profile as sRGB."""
    profile = _profile(image)
    if profile is None:
        return image
    try:
        colours = image.convert("RGB") if image.mode == "RGBA" else image
        to_display_rgb = ImageCms.profileToProfile(
            colours, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, *_DAMAGE):
        return image
    assert to_display_rgb is not None, "only a conversion in place returns nothing"
    if image.mode == "RGBA":
        to_display_rgb.putalpha(image.getchannel("A"))
    return to_display_rgb


def _to_rgb(image: Image.Image, page: tuple[int, int, int]) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # I;16, I;16B, I, F: more than 8 bits of grey
        return _grey_to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, page), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled: Pillow's own conversion cuts at 255 and shows a white page.

    Integers span 0..65535 (Pillow widens 16-bit files to that, in modes I and I;16 alike); floats span 0..1
    where none is greater, else 0..255.
    """
    grey = np.asarray(image).astype(np.float64)
    whole = 65535.0
    if image.mode == "F":
        whole = 1.0 if np.nanmax(grey, initial=0.0) <= 1 else 255.0
    return Image.fromarray(np.clip(np.nan_to_num(grey) * (255.0 / whole) + 0.5, 0, 255).astype(np.uint8))
