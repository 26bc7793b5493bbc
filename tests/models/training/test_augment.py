"""Augmentation: geometry and tone against the tensor code of torchvision and against values by hand."""

from random import Random

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from capfilt.models.config import AugmentConfig
from capfilt.models.training import augment
from capfilt.models.training.augment import OPERATIONS, TrainAugment, crop_box, random_operations

PLAIN = AugmentConfig(min_scale=1, hflip=False, randaugment=False)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Noise of limited contrast, so that every tone operation changes it."""
    pixels = np.random.default_rng(0).integers(40, 180, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_everything_disabled_changes_no_pixel_at_the_images_own_size(photo: Image.Image) -> None:
    square = photo.crop((0, 0, 48, 48))
    assert torch.equal(TrainAugment(48, PLAIN)(square, 1), tensor(square))


def test_everything_disabled_resizes_the_whole_image_as_in_evaluation(photo: Image.Image) -> None:
    expected = photo.resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(TrainAugment(32, PLAIN)(photo, 1), tensor(expected))


def test_the_seed_determines_the_result(photo: Image.Image) -> None:
    train_augment = TrainAugment(32, AugmentConfig())
    results = [train_augment(photo, seed) for seed in range(8)]
    assert all(p.shape == (3, 32, 32) and p.dtype == torch.uint8 for p in results)
    assert torch.equal(results[3], train_augment(photo, 3))
    assert len({p.numpy().tobytes() for p in results}) == 8


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (300, 20), (7, 90), (1, 1)])
@pytest.mark.parametrize("min_scale", [0.2, 0.5, 0.99])
def test_crops_are_inside_the_image_and_respect_scale_and_ratio(
    width: int, height: int, min_scale: float
) -> None:
    for seed in range(50):
        left, top, right, bottom = crop_box(width, height, min_scale, Random(seed))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if 0.75 <= width / height <= 4 / 3 and width > 1:
            # Rounding to whole pixels changes area and ratio slightly.
            assert (right - left) * (bottom - top) >= 0.93 * min_scale * width * height
            assert 0.7 < (right - left) / (bottom - top) < 1.43


def test_crop_areas_have_the_distribution_of_torchvision() -> None:
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


def test_half_of_the_images_are_flipped(photo: Image.Image) -> None:
    square = photo.crop((0, 0, 48, 48))
    train_augment = TrainAugment(48, AugmentConfig(min_scale=1, randaugment=False))
    flipped = sum(torch.equal(train_augment(square, seed), tensor(square).flip(2)) for seed in range(400))
    kept = sum(torch.equal(train_augment(square, seed), tensor(square)) for seed in range(400))
    assert flipped + kept == 400
    assert 160 < flipped < 240


def test_tone_operations_equal_those_of_torchvision(photo: Image.Image) -> None:
    pixels = tensor(photo)
    for name, expected in {
        "identity": pixels,
        "autocontrast": tv.autocontrast(pixels),
        "equalize": tv.equalize(pixels),
        "brightness": tv.adjust_brightness(pixels, 0.1 + 1.8 * 0.8),
        "sharpness": tv.adjust_sharpness(pixels, 0.1 + 1.8 * 0.8),
    }.items():
        got = tensor(OPERATIONS[name](photo, 0.8, 1.0)).int()
        # The two libraries round differently, by at most one level.
        assert (got - expected.int()).abs().max() <= 1, name


def test_translation_moves_by_whole_pixels_and_fills_with_gray(photo: Image.Image) -> None:
    moved = tensor(OPERATIONS["translate_x"](photo, 0.5, 1.0))  # half of 10 pixels, to the right
    assert torch.equal(moved[:, :, 5:], tensor(photo)[:, :, :-5])
    assert (moved[:, :, :5] == 128).all()
    moved = tensor(OPERATIONS["translate_y"](photo, 0.5, -1.0))
    assert torch.equal(moved[:, :-5], tensor(photo)[:, 5:])
    assert (moved[:, -5:] == 128).all()


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_shear_moves_each_row_or_column_in_proportion_to_its_position(name: str) -> None:
    line = Image.new("RGB", (64, 64))
    line.paste((255, 255, 255), (20, 0, 21, 64) if name == "shear_x" else (0, 20, 64, 21))
    sheared = np.asarray(OPERATIONS[name](line, 1.0, 1.0))[:, :, 0].astype(float)
    rows = sheared if name == "shear_x" else sheared.T
    for row in (10, 30, 50):
        intensity = np.where(rows[row] == 128, 0, rows[row])
        center = (intensity * (np.arange(64) + 0.5)).sum() / intensity.sum()
        assert center == pytest.approx(20.5 + 0.3 * (row + 0.5), abs=0.6)


def test_rotation_equals_that_of_torchvision() -> None:
    board = Image.new("RGB", (65, 65))
    board.paste((255, 255, 255), (10, 28, 55, 37))
    expected = tv.rotate(tensor(board), 15.0, interpolation=tv.InterpolationMode.BILINEAR, fill=[128.0] * 3)
    got = tensor(OPERATIONS["rotate"](board, 0.5, 1.0))
    inside = (
        slice(None),
        slice(12, 53),
        slice(12, 53),
    )  # the two libraries blend the border differently with gray
    assert (got[inside].int() - expected[inside].int()).abs().max() <= 3


def test_brightness_and_sharpness_have_no_effect_at_magnitude_five_as_in_the_reference(
    photo: Image.Image,
) -> None:
    for name in ("brightness", "sharpness"):
        assert torch.equal(tensor(OPERATIONS[name](photo, 0.5, 1.0)), tensor(photo))


def test_without_crop_an_image_of_any_ratio_is_resized_as_a_whole() -> None:
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 300, 3), dtype=np.uint8))
    expected = wide.resize((32, 32), Image.Resampling.BICUBIC)
    assert torch.equal(TrainAugment(32, PLAIN)(wide, 1), tensor(expected))


def test_an_image_of_the_target_size_is_cropped_too(photo: Image.Image) -> None:
    square = photo.crop((0, 0, 48, 48))
    config = AugmentConfig(min_scale=0.2, hflip=False, randaugment=False)
    for seed in range(5):
        box = crop_box(48, 48, 0.2, Random(seed))
        expected = square.resize((48, 48), Image.Resampling.BICUBIC, box=box)
        assert torch.equal(TrainAugment(48, config)(square, seed), tensor(expected))


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(300, 20, (136, 0, 163, 20)), (20, 300, (0, 136, 20, 163)), (301, 20, (137, 0, 164, 20))],
)
def test_if_no_draw_fits_the_crop_is_centered(width: int, height: int, box: tuple) -> None:
    assert crop_box(width, height, 0.99, Random(0)) == box


def test_a_crop_is_drawn_at_most_ten_times() -> None:
    class CountingRandom(Random):
        calls = 0

        def random(self) -> float:
            self.calls += 1
            return super().random()

    random = CountingRandom(0)
    crop_box(300, 20, 0.99, random)
    assert random.calls == 10 * 2  # area and ratio


def test_operations_are_applied_to_half_of_the_draws_with_either_sign(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[tuple[float, float]] = []

    def record(image: Image.Image, level: float, sign: float) -> Image.Image:
        applied.append((level, sign))
        return image

    monkeypatch.setattr(augment, "OPERATIONS", dict.fromkeys(OPERATIONS, record))
    config = AugmentConfig(operations=3, magnitude=7)
    for seed in range(400):
        random_operations(photo, config, Random(seed))
    # The standard deviation of 1,200 draws of probability 0.5 is 17.
    assert 530 < len(applied) < 670
    assert {level for level, _ in applied} == {0.7}
    positive = sum(sign == 1.0 for _, sign in applied)
    assert positive + sum(sign == -1.0 for _, sign in applied) == len(applied)
    assert 0.44 < positive / len(applied) < 0.56
