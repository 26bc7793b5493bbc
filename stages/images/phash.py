"""Perceptual hash: the hashes of images that look alike differ in few bits."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from PIL import Image

HASH_SIDE = 8
"""The hash has one bit for each of the 8 x 8 lowest frequencies."""
GRAY_SIDE = 32
"""Side of the gray image whose frequencies are computed."""


def perceptual_hash(pixels: np.ndarray) -> str:
    """64-bit DCT hash; the Hamming distance of near-equal images is small, whatever their size or quality.

    The 8 x 8 lowest frequencies of the 32 x 32 gray image, row by row, each compared with their median: the
    common "pHash", equal to that of the imagehash package up to rounding.

    Args:
        pixels: [height, width, 3] uint8, RGB.

    Returns:
        16 hex digits; the first bit is the constant part.
    """
    gray = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    # reducing_gap averages to about three times the size first, which is faster and changes one bit in
    # one image of twenty.
    small = gray.resize((GRAY_SIDE, GRAY_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    basis = _dct_basis()
    # Rounded: the sign of a zero coefficient of a flat image would depend on the machine's arithmetic.
    frequencies = np.round(basis @ np.asarray(small, dtype=np.float64) @ basis.T, 3)
    bits = (frequencies > np.median(frequencies)).flatten()
    return np.packbits(bits).tobytes().hex()


@cache
def _dct_basis() -> np.ndarray:
    """First rows of the DCT-II matrix, [8, 32]: cos(pi k (2n + 1) / 64)."""
    k = np.arange(HASH_SIDE)[:, None]
    n = np.arange(GRAY_SIDE)[None, :]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * GRAY_SIDE))
