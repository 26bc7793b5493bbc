"""Opens image files with Pillow, after the checks that Pillow leaves out.

The size in a header is not always what a codec allocates, metadata that nobody needs can make a file
unreadable, and a small file can take hours. `open_image` bounds all three.
"""

import io
import struct
import time

from PIL import IcoImagePlugin, Image, TiffImagePlugin

from capfilt.models.images import jpeg_scans, png

PILLOW_MAX_PIXELS = 178_956_970
"""Pillow itself rejects larger images (twice its MAX_IMAGE_PIXELS)."""
MAX_DECODE_SECONDS = 60.0
"""Processor time. A photograph of 64 million pixels takes two seconds."""
MAX_TILE_PIXELS = 4 << 20
"""Pixels of a TIFF tile that is larger than its image; common are tiles of up to 1024 x 1024."""

_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")


class DecodeTimeout(OSError):
    """An image takes too much processor time."""


class _LimitedFile(io.BytesIO):
    """A file in memory that can be read for `MAX_DECODE_SECONDS`.

    Pillow feeds most decoders in blocks of 64 KiB, so between two blocks decoding can be stopped. A thread
    cannot be stopped otherwise; decoders that get the whole file are bounded by the number of pixels.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.deadline = time.thread_time() + MAX_DECODE_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self.deadline:
            raise DecodeTimeout(f"decoding takes more than {MAX_DECODE_SECONDS:g} s of processor time")
        return super().read(size)


def open_image(
    data: bytes, formats: list[str] | None = None, max_pixels: int = PILLOW_MAX_PIXELS
) -> Image.Image:
    """Read the header of an image file; pixels are decoded later, on the thread that calls this.

    Orientation in XMP is ignored, as browsers do.

    Args:
        formats: names of Pillow's formats; None for all.
        max_pixels: parts of a file that would be decoded to more pixels than this are refused here. The
            caller checks the size of the image.

    Raises:
        PIL.UnidentifiedImageError: not an image in one of the formats.
        PIL.Image.DecompressionBombError: too many pixels.
        OSError: damaged, or made to take a long time. Pillow raises other exceptions too.
    """
    profile = None
    if data.startswith(b"\0\0\1\0"):
        data = _icon_content(data, max_pixels)
    if data.startswith(png.SIGNATURE):
        data, profile = png.keep_first_frame(data)
    elif data.startswith(jpeg_scans.START):
        data = jpeg_scans.check_and_complete(data, max_pixels)
    image = Image.open(_LimitedFile(data), formats=formats)
    for key in _XMP_KEYS:
        image.info.pop(key, None)
    if profile is not None:
        image.info["icc_profile"] = profile
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tile(image)
    elif image.format == "JPEG2000":
        _check_codestream(image.size, data)
    return image


def _icon_content(data: bytes, max_pixels: int) -> bytes:
    """The PNG file that is the largest image of an icon; the icon if that is a bitmap.

    Pillow decodes an icon when it opens it, whatever the size of the PNG file.
    """
    entries = IcoImagePlugin.IcoFile(io.BytesIO(data)).entry
    if not entries:
        return data
    content = data[entries[0].offset :]
    if content.startswith(png.SIGNATURE):
        return content
    if len(content) >= 12:
        width, height = struct.unpack_from("<ii", content, 4)  # the height counts the mask too
        if abs(width * height) // 2 > max_pixels:
            raise Image.DecompressionBombError(
                f"the icon contains an image of {width} x {height // 2} pixels"
            )
    return data


def _check_tile(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse a TIFF with a tile much larger than the image: libtiff allocates a whole tile."""
    tags, (width, height) = image.tag_v2, image.size
    tile = [tags.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)]
    if not all(isinstance(side, int) for side in tile):
        raise OSError(f"the size of a tile is {tile}")
    if tile[0] * tile[1] > max(MAX_TILE_PIXELS, 4 * width * height):
        raise OSError(f"a tile of {tile[0]} x {tile[1]} pixels in an image of {width} x {height}")


def _check_codestream(size: tuple[int, int], data: bytes) -> None:
    """Refuse a JPEG 2000 file whose boxes tell another size than its codestream (T.800, A.5.1)."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 24:
        return  # Pillow reports it
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    if (right - left, bottom - top) != size:
        raise OSError(f"the codestream has {right - left} x {bottom - top} pixels, the header {size}")
