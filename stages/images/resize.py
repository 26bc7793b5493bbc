"""Bringing a picture down to the size it is stored in.

First by a whole number, averaging; what is left is a factor below two, done as a soft blur and a cubic
interpolation. Against a Lanczos filter over all pixels that errs less than averaging areas (img2dataset's way) on fine
patterns and about as little on photographs, in a third of the time; Pillow's own filters are a multiple slower.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image

BLUR = 0.45
"""Strength of the blur, measured: less lets fine patterns alias, more softens photographs."""
NO_BLUR = 0.25  # pixels: a neighbour would have a weight of 0.0003


def scaled_down(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[height, width, 3] uint8 in (width, height) `size`, which is not larger; the same object if that is its size."""
    height, width, _ = pixels.shape
    if (width, height) == size:
        return pixels
    whole = min(width // size[0], height // size[1])
    if whole > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(whole))
        height, width, _ = pixels.shape
    factor = max(1.0, min(width / size[0], height / size[1]))
    sigma = BLUR * math.sqrt(factor**2 - 1)
    if sigma > NO_BLUR:
        pixels = cv2.GaussianBlur(pixels, (3, 3), sigma)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
