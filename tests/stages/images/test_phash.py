"""Perceptual hashes: their definition, near-equal images, and images without content."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.fft import dctn

from capfilt.stages.bootstrap.duplicates import MIN_INFORMATIVE_BITS
from capfilt.stages.images.phash import perceptual_hash


def hash_bits(image: Image.Image) -> int:
    return int(perceptual_hash(np.asarray(image)), 16)


def test_hash_matches_the_definition() -> None:
    image = draw("scene").resize((320, 240))
    gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = dctn(gray, type=2)[:8, :8].flatten()
    expected = int("".join("1" if value > np.median(low) else "0" for value in low), 2)
    # scipy's values are larger by a constant factor, which the comparison with the median cancels.
    assert (hash_bits(image) ^ expected).bit_count() <= 1


def test_hash_of_a_flat_image_has_only_the_constant_bit() -> None:
    assert perceptual_hash(np.asarray(Image.new("RGB", (90, 70), (220, 30, 40)))) == "8000000000000000"


def test_hash_ignores_size_and_quality_and_distinguishes_images() -> None:
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
            (320, 240), Image.Resampling.BICUBIC
        )
        for _ in range(6)
    ]
    for image in images:
        sink = io.BytesIO()
        image.resize((100, 75)).save(sink, "JPEG", quality=40)
        assert (hash_bits(image) ^ hash_bits(Image.open(sink))).bit_count() <= 6
    assert min((hash_bits(a) ^ hash_bits(b)).bit_count() for a in images for b in images if a is not b) >= 16


def test_hashes_do_not_change() -> None:
    """Hashes are stored, and compared across runs and versions."""
    rng = np.random.default_rng(1)
    images = [
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size)
        for size in [(384, 512), (500, 384), (97, 131)] * 30
    ]
    text = " ".join(f"{hash_bits(image):016x}" for image in images)
    assert text.startswith("8068deeb9a9ad247 a07548bff20f0db8 ")
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "5daff71f3ec4d6eb9e68a7373e74a02f98aea408d87bdb664259096598a8a552"
    )


def draw(kind: str, offset: int = 0) -> Image.Image:
    """Flat, striped and symmetric images, and one with content."""
    image = Image.new("RGB", (96, 96), (200, 30 + offset, 90))
    pen = ImageDraw.Draw(image)
    if kind == "stripes":
        for x in range(0, 96, 16):
            pen.rectangle([x, 0, x + 7, 95], fill="white")
    if kind == "circle":
        pen.ellipse([24, 24, 71, 71], fill="white")
    if kind == "scene":
        pen.polygon([(5, 90), (40, 12), (88, 70)], fill="white")
        pen.ellipse([50, 10, 81, 33], fill="black")
    return image


@pytest.mark.parametrize(
    ("kind", "is_informative"), [("flat", False), ("stripes", False), ("circle", False), ("scene", True)]
)
def test_only_hashes_of_images_with_content_are_informative(kind: str, is_informative: bool) -> None:
    assert (hash_bits(draw(kind)).bit_count() >= MIN_INFORMATIVE_BITS) == is_informative


def test_flat_images_of_different_colors_have_equal_hashes() -> None:
    assert hash_bits(draw("flat")) == hash_bits(draw("flat", offset=150))
