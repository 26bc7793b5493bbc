"""Downscaling: sizes, fine patterns, and errors compared with a Lanczos filter."""

import numpy as np
import pytest
from PIL import Image

from capfilt.stages.images.resize import downscale


def waves(width: int, height: int) -> np.ndarray:
    """A smooth image with details of several sizes."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = [128 + 60 * np.sin(40 * k * x + 3 * y) + 50 * np.cos(25 * y * k - x) for k in (1, 2, 3)]
    return np.stack(channels, -1).clip(0, 255).astype(np.uint8)


def checkerboard(side: int) -> np.ndarray:
    squares = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    return np.repeat(squares[..., None], 3, axis=2)


def test_same_size_returns_the_same_array() -> None:
    pixels = waves(60, 40)
    assert downscale(pixels, (60, 40)) is pixels
    assert downscale(pixels, (60, 39)).shape == (39, 60, 3)
    assert downscale(pixels, (59, 40)).shape == (40, 59, 3)


def lanczos_error(pixels: np.ndarray, size: tuple[int, int]) -> float:
    """Root mean square difference from a Lanczos filter over all pixels."""
    expected = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), float)
    result = downscale(pixels, size)
    assert result.shape == (size[1], size[0], 3) and result.dtype == np.uint8
    return float(np.sqrt(np.square(result - expected).mean()))


@pytest.mark.parametrize("factor", [1.1, 1.25, 1.5, 1.75, 2, 2.5, 3, 10])
def test_close_to_a_lanczos_filter(factor: float) -> None:
    """Whole and fractional factors; a blur of 1.5 times the strength would exceed the tolerance."""
    assert lanczos_error(waves(round(100 * factor), round(60 * factor)), (100, 60)) < 3.5


@pytest.mark.parametrize("original", [(150, 120), (190, 60), (250, 130), (100, 100)])
def test_sides_with_different_factors(original: tuple[int, int]) -> None:
    """Neither side is averaged or blurred more than the smaller factor allows."""
    assert lanczos_error(waves(*original), (100, 60)) < 2.5


@pytest.mark.parametrize("side", [182, 288, 960])  # 1.9, 3 and 10 times the stored side
def test_fine_patterns_become_gray_without_aliasing(side: int) -> None:
    """The largest deviation from the mean is that of an odd square: a ninth of 255."""
    result = downscale(checkerboard(side), (96, 96)).astype(int)
    assert np.abs(result - 127).max() <= 18
