"""JPEG decoding and encoding with libjpeg-turbo, without Pillow.

Pillow uses the same library, with the same pixels and bytes as result, but holds pixels in four bytes each: a
third of its time goes into copies between that and an array.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg


def decode_jpeg(data: bytes, size: tuple[int, int], min_size: tuple[int, int]) -> np.ndarray | None:
    """Decode an RGB JPEG, at a fraction of its size where that is enough.

    libjpeg can decode at half the sides or less, by transforming fewer coefficients back. That averages
    pixels as well as resizing does and is much faster.

    Args:
        data: the file.
        size: (width, height) according to its header.
        min_size: (width, height) that the result must have at least.

    Returns:
        [height, width, 3] uint8; None if libjpeg finds anything unusual, from an extra byte to a missing
        half. Decode such a file with Pillow.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != size:
            return None
        return simplejpeg.decode_jpeg(
            data, "RGB", min_width=min_size[0], min_height=min_size[1], min_factor=2
        )
    except ValueError:
        return None


def encode_jpeg(pixels: np.ndarray, quality: int, *, full_chroma: bool) -> bytes:
    """Encode [height, width, 3] uint8 as a JPEG without metadata; the bytes are those that Pillow writes.

    Args:
        full_chroma: store the color of every pixel (4:4:4), otherwise of every fourth (4:2:0).
    """
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if full_chroma else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    # Not simplejpeg: it always uses the fast DCT, whose error is 3 % larger.
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert done, "OpenCV encodes every 8-bit image"
    return data.tobytes()
