"""A perceptual hash: pictures that look alike differ in few bits."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from PIL import Image

HASH_SIDE = 8  # 8 x 8 frequencies = 64 bits
HASH_PICTURE = 32  # of a grey picture of 32 x 32


def perceptual_hash(pixels: np.ndarray) -> str:
    """64-bit DCT hash: near-equal pictures differ in few bits (Hamming distance), whatever size or quality.

    The 8 x 8 lowest frequencies of the 32 x 32 grey picture, each compared with their median, row by row
    (the common "pHash", that of the imagehash package up to rounding).

    Args:
        pixels: [height, width, 3] uint8, RGB.

    Returns:
        16 hex digits; first bit = the constant part.
    """
    # Averaged by whole numbers to three times its size first: one picture in twenty differs by a bit.
    side = (HASH_PICTURE, HASH_PICTURE)
    grey = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    small = grey.resize(side, Image.Resampling.LANCZOS, reducing_gap=3.0)
    basis = _cosines()
    # Rounded, or the sign of a zero coefficient of a flat picture would depend on the machine's arithmetic.
    frequencies = np.round(basis @ np.asarray(small, dtype=np.float64) @ basis.T, 3)
    bits = (frequencies > np.median(frequencies)).flatten()
    return np.packbits(bits).tobytes().hex()


@cache
def _cosines() -> np.ndarray:
    """First rows of the DCT-II matrix, [8, 32]: cos(pi k (2n + 1) / 64)."""
    k = np.arange(HASH_SIDE)[:, None]
    n = np.arange(HASH_PICTURE)[None, :]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * HASH_PICTURE))
