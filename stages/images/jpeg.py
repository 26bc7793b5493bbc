"""JPEG to pixels and back by libjpeg-turbo itself.

Pillow uses the same library and gives the same pixels and bytes; it keeps them in four bytes each, so that on the way to an array and
back a third of the time goes into copying.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg


def jpeg_pixels(data: bytes, size: tuple[int, int], least: tuple[int, int]) -> np.ndarray | None:
    """Pixels of an RGB JPEG whose header says that it is (width, height) `size`.

    At half its sides or less where that is `least` or more: only so many coefficients are transformed back, which averages
    pixels as well as scaling does, and costs a fraction.

    Returns:
        [height, width, 3] uint8; None where something about the file is not as it should be, from a byte too many to a
        missing half: then Pillow judges.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != size:
            return None
        return simplejpeg.decode_jpeg(data, "RGB", min_width=least[0], min_height=least[1], min_factor=2)
    except ValueError:
        return None


def jpeg_bytes(pixels: np.ndarray, quality: int, *, full_chroma: bool) -> bytes:
    """[height, width, 3] uint8 as a JPEG without metadata, the bytes that Pillow writes.

    Args:
        full_chroma: colours in every pixel (4:4:4), else in every fourth (4:2:0).
    """
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full_chroma else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    # Not by simplejpeg, which always takes the fast transform and errs 3 % more.
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done, "OpenCV encodes any picture of 8 bits"
    return data.tobytes()
