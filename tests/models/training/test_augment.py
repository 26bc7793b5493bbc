"""Augmentation: geometry and tone checked against torchvision's tensor code and against numbers by hand."""

from random import Random

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from capfilt.models.config import AugmentConfig
from capfilt.models.training.augment import OPERATIONS, TrainAugment, crop_box

PLAIN = AugmentConfig(min_scale=1, hflip=False, randaugment=False)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Noise of limited contrast, so that every tone operation has something to do."""
    pixels = np.random.default_rng(0).integers(40, 180, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_everything_off_at_the_image_s_own_size_changes_no_pixel(photo: Image.Image) -> None:
    square = photo.crop((0, 0, 48, 48))
    assert torch.equal(TrainAugment(48, PLAIN)(square, 1), tensor(square))


def test_everything_off_squashes_as_evaluation_does(photo: Image.Image) -> None:
    expected = photo.resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(TrainAugment(32, PLAIN)(photo, 1), tensor(expected))


def test_same_seed_same_picture_other_seed_another(photo: Image.Image) -> None:
    augment = TrainAugment(32, AugmentConfig())
    pictures = [augment(photo, seed) for seed in range(8)]
    assert all(p.shape == (3, 32, 32) and p.dtype == torch.uint8 for p in pictures)
    assert torch.equal(pictures[3], augment(photo, 3))
    assert len({p.numpy().tobytes() for p in pictures}) == 8


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (300, 20), (7, 90), (1, 1)])
@pytest.mark.parametrize("min_scale", [0.2, 0.5, 0.99])
def test_crops_stay_inside_and_keep_to_scale_and_ratio(width: int, height: int, min_scale: float) -> None:
    for seed in range(50):
        left, top, right, bottom = crop_box(width, height, min_scale, Random(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if 0.75 <= width / height <= 4 / 3 and width > 1:
            # Rounding to whole pixels moves area and ratio a little.
            assert (right - left) * (bottom - top) >= 0.93 * min_scale * width * height
            assert 0.7 < (right - left) / (bottom - top) < 1.43


def test_crop_areas_are_distributed_as_torchvision_s() -> None:
    ours, theirs = [], []
    torch.manual_seed(0)
    canvas = torch.empty(3, 1000, 1000)
    for seed in range(4000):
        left, top, right, bottom = crop_box(1000, 1000, 0.2, Random(seed))
        ours.append((right - left) * (bottom - top) / 1e6)
        _, _, height, width = RandomResizedCrop.get_params(canvas, [0.2, 1.0], [3 / 4, 4 / 3])
        theirs.append(height * width / 1e6)
    # Standard deviation of an area is about 0.2, so a mean of 4,000 has a standard error of 0.003.
    assert abs(np.mean(ours) - np.mean(theirs)) < 0.02
    assert np.abs(np.quantile(ours, [0.1, 0.5, 0.9]) - np.quantile(theirs, [0.1, 0.5, 0.9])).max() < 0.03


def test_half_of_the_images_are_mirrored(photo: Image.Image) -> None:
    square = photo.crop((0, 0, 48, 48))
    augment = TrainAugment(48, AugmentConfig(min_scale=1, randaugment=False))
    mirrored = sum(torch.equal(augment(square, seed), tensor(square).flip(2)) for seed in range(400))
    kept = sum(torch.equal(augment(square, seed), tensor(square)) for seed in range(400))
    assert mirrored + kept == 400
    assert 160 < mirrored < 240


def test_tone_operations_equal_torchvision_s(photo: Image.Image) -> None:
    pixels = tensor(photo)
    for name, expected in {
        "identity": pixels,
        "autocontrast": tv.autocontrast(pixels),
        "equalize": tv.equalize(pixels),
        "brightness": tv.adjust_brightness(pixels, 0.1 + 1.8 * 0.8),
        "sharpness": tv.adjust_sharpness(pixels, 0.1 + 1.8 * 0.8),
    }.items():
        got = tensor(OPERATIONS[name](photo, 0.8, 1.0)).int()
        # The two libraries round differently: one grey level, nowhere more.
        assert (got - expected.int()).abs().max() <= 1, name


def test_translation_moves_by_whole_pixels_and_fills_with_grey(photo: Image.Image) -> None:
    moved = tensor(OPERATIONS["translate_x"](photo, 0.5, 1.0))  # half of 10 pixels, to the right
    assert torch.equal(moved[:, :, 5:], tensor(photo)[:, :, :-5])
    assert (moved[:, :, :5] == 128).all()
    moved = tensor(OPERATIONS["translate_y"](photo, 0.5, -1.0))
    assert torch.equal(moved[:, :-5], tensor(photo)[:, 5:])
    assert (moved[:, -5:] == 128).all()


def test_shear_moves_each_row_in_proportion_to_its_height() -> None:
    line = Image.new("RGB", (64, 64))
    line.paste((255, 255, 255), (20, 0, 21, 64))
    sheared = np.asarray(OPERATIONS["shear_x"](line, 1.0, 1.0))[:, :, 0].astype(float)
    for row in (10, 30, 50):
        seen = np.where(sheared[row] == 128, 0, sheared[row])
        centre = (seen * (np.arange(64) + 0.5)).sum() / seen.sum()
        assert centre == pytest.approx(20.5 + 0.3 * (row + 0.5), abs=0.6)


def test_rotation_equals_torchvision_s() -> None:
    board = Image.new("RGB", (65, 65))
    board.paste((255, 255, 255), (10, 28, 55, 37))
    expected = tv.rotate(tensor(board), 15.0, interpolation=tv.InterpolationMode.BILINEAR, fill=[128.0] * 3)
    got = tensor(OPERATIONS["rotate"](board, 0.5, 1.0))
    inside = (slice(None), slice(12, 53), slice(12, 53))  # the two differ in how the border blends with grey
    assert (got[inside].int() - expected[inside].int()).abs().max() <= 3


def test_magnitude_five_leaves_brightness_and_sharpness_alone_as_in_the_reference(photo: Image.Image) -> None:
    for name in ("brightness", "sharpness"):
        assert torch.equal(tensor(OPERATIONS[name](photo, 0.5, 1.0)), tensor(photo))
