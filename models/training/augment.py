"""Training augmentation of BLIP: random resized crop, horizontal flip, and RandAugment without color changes.

RandAugment uses only operations that keep a caption true. The values are those of section 4.1 of the BLIP
paper and of the reference's `transform/randaugment.py`: two operations of magnitude 5, drawn with
replacement, each applied with probability 0.5; uncovered pixels are gray. Each image is augmented from its
own seed, so the result does not depend on batch, worker or resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from capfilt.models.config import MAX_MAGNITUDE, AugmentConfig

APPLY_PROBABILITY = 0.5  # of each operation drawn
FLIP_PROBABILITY = 0.5
FILL = (128, 128, 128)  # color of pixels that a geometric operation uncovers
ASPECT_RATIOS = (3 / 4, 4 / 3)  # range of a crop's width / height
CROP_ATTEMPTS = 10


class TrainAugment:
    """Augments a PIL image and converts it to a uint8 tensor [3, size, size].

    Args:
        size: height and width of the result in pixels.
        config: the augmentation.
    """

    def __init__(self, size: int, config: AugmentConfig) -> None:
        self.size = size
        self.config = config

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        """Augment an RGB image; the same image and seed always give the same tensor."""
        random = Random(seed)
        if self.config.min_scale < 1:
            box = crop_box(image.width, image.height, self.config.min_scale, random)
        else:
            box = (0, 0, image.width, image.height)
        if image.size != (self.size, self.size) or box != (0, 0, self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)
        if self.config.hflip and random.random() < FLIP_PROBABILITY:
            image = ImageOps.mirror(image)
        if self.config.randaugment:
            image = random_operations(image, self.config, random)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def crop_box(width: int, height: int, min_scale: float, random: Random) -> tuple[int, int, int, int]:
    """Draw a crop with at least `min_scale` of the image area and an aspect ratio of 3:4 to 4:3.

    If ten draws do not fit into the image, the result is the largest centered crop of an allowed aspect
    ratio, as in torchvision's RandomResizedCrop.

    Returns:
        (left, top, right, bottom) in pixels.
    """
    low, high = (math.log(ratio) for ratio in ASPECT_RATIOS)
    for _ in range(CROP_ATTEMPTS):
        area = width * height * _draw_between(random, min_scale, 1.0)
        ratio = math.exp(_draw_between(random, low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(random.random() * (width - w + 1)), int(random.random() * (height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, ASPECT_RATIOS[0]), ASPECT_RATIOS[1])
    w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_operations(image: Image.Image, config: AugmentConfig, random: Random) -> Image.Image:
    """Draw `config.operations` operations with replacement and apply each with probability 0.5."""
    names = tuple(OPERATIONS)
    level = config.magnitude / MAX_MAGNITUDE
    for _ in range(config.operations):
        name = names[int(random.random() * len(names))]
        sign = 1.0 if random.random() < 0.5 else -1.0
        if random.random() < APPLY_PROBABILITY:
            image = OPERATIONS[name](image, level, sign)
    return image


def _identity(image: Image.Image, level: float, sign: float) -> Image.Image:
    return image


def _autocontrast(image: Image.Image, level: float, sign: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, level: float, sign: float) -> Image.Image:
    return ImageOps.equalize(image)


def _brightness(image: Image.Image, level: float, sign: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * level)


def _sharpness(image: Image.Image, level: float, sign: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * level)


def _shear_x(image: Image.Image, level: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, -0.3 * level * sign, 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, level: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, -0.3 * level * sign, 1.0, 0.0))


def _translate_x(image: Image.Image, level: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, -10 * level * sign, 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, level: float, sign: float) -> Image.Image:
    return _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, -10 * level * sign))


def _rotate(image: Image.Image, level: float, sign: float) -> Image.Image:
    return image.rotate(30 * level * sign, Image.Resampling.BILINEAR, fillcolor=FILL)


def _affine(image: Image.Image, inverse: tuple[float, ...]) -> Image.Image:
    """Transform an image; `inverse` maps pixels of the result to pixels of the image, as in PIL."""
    return image.transform(
        image.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=FILL
    )


OPERATIONS: dict[str, Callable[[Image.Image, float, float], Image.Image]] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "equalize": _equalize,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": _rotate,
}


def _draw_between(random: Random, low: float, high: float) -> float:
    return low + (high - low) * random.random()
