"""Perceptual hashes of pictures without anything in them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from capfilt.stages.bootstrap.duplicates import MIN_INFORMATIVE_BITS
from capfilt.stages.images.phash import perceptual_hash


def draw(kind, offset=0):
    """Flat, striped and symmetric pictures, and one with something in it."""
    picture = Image.new("RGB", (96, 96), (200, 30 + offset, 90))
    pen = ImageDraw.Draw(picture)
    if kind == "stripes":
        for x in range(0, 96, 16):
            pen.rectangle([x, 0, x + 7, 95], fill="white")
    if kind == "circle":
        pen.ellipse([24, 24, 71, 71], fill="white")
    if kind == "scene":
        pen.polygon([(5, 90), (40, 12), (88, 70)], fill="white")
        pen.ellipse([50, 10, 81, 33], fill="black")
    return picture


@pytest.mark.parametrize(
    ("kind", "tells"), [("flat", False), ("stripes", False), ("circle", False), ("scene", True)]
)
def test_hashes_of_pictures_without_anything_in_them_tell_nothing(kind, tells):
    bits = int(perceptual_hash(np.asarray(draw(kind))), 16).bit_count()
    assert (bits == MIN_INFORMATIVE_BITS) == tells


def test_flat_pictures_of_different_colours_share_their_hash_so_it_must_not_count():
    assert perceptual_hash(np.asarray(draw("flat"))) == perceptual_hash(np.asarray(draw("flat", offset=150)))
