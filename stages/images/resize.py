"""Downscaling of an image to its stored size.

First by a whole number, averaging blocks of pixels; the remaining factor below two is a slight blur and a
bicubic interpolation. Compared with area averaging (img2dataset's method), and measured against a Lanczos
filter over all pixels, the errors are smaller on fine patterns and about the same on photographs, in a third
of the time. Pillow's filters are several times slower.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image

BLUR = 0.45
"""Strength of the blur, measured: less aliases fine patterns, more softens photographs."""
MIN_SIGMA = 0.25
"""Pixels. A smaller blur is skipped: it gives a neighbor pixel a weight of 0.0003."""


def downscale(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image to a size that is not larger.

    Args:
        pixels: [height, width, 3] uint8.
        size: (width, height).

    Returns:
        [height, width, 3] uint8; `pixels` itself if it has that size.
    """
    height, width, _ = pixels.shape
    if (width, height) == size:
        return pixels
    whole = min(width // size[0], height // size[1])
    if whole > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(whole))
        height, width, _ = pixels.shape
    factor = max(1.0, min(width / size[0], height / size[1]))
    sigma = BLUR * math.sqrt(factor**2 - 1)
    if sigma > MIN_SIGMA:
        pixels = cv2.GaussianBlur(pixels, (3, 3), sigma)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
