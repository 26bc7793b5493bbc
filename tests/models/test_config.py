"""Model and objective configs: consistency checks on both sides of their limits, and conversion to dicts."""

from dataclasses import asdict

import pytest

from capfilt.models.config import MedConfig, ObjectiveConfig, TextConfig, VisionConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 225}, "vision.image_size 225 is not a multiple of patch_size 16"),
        ({"width": 100, "heads": 3}, "vision.width 100 is not divisible by heads 3"),
        ({"depth": 2, "checkpoint_layers": 3}, "vision.checkpoint_layers 3 exceeds depth 2"),
        ({"stem": "conv", "patch_size": 4}, "patch_size 4 is not supported by stem"),
        ({"stem": "conv", "patch_size": 56}, "patch_size 56 is not supported by stem"),
    ],
)
def test_inconsistent_vision_configs_are_rejected(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 16},
        {"width": 99, "heads": 3},
        {"depth": 2, "checkpoint_layers": 2},
        *({"stem": "conv", "patch_size": size, "image_size": 64} for size in (8, 16, 32)),
        {"stem": "patch", "patch_size": 4},
    ],
)
def test_consistent_vision_configs_are_accepted(values: dict) -> None:
    config = asdict(VisionConfig(**values))
    assert {name: config[name] for name in values} == values


def test_the_text_width_must_be_divisible_by_heads() -> None:
    assert TextConfig(width=10, heads=5).width == 10
    with pytest.raises(ValueError, match=r"text\.width 10 is not divisible by heads 4"):
        TextConfig(width=10, heads=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"losses": ("lm", "itc", "lm")}, "contain a duplicate"),
        ({"queue_size": 0}, "alpha 0.4 needs the momentum encoder"),
        ({"queue_size": 0, "alpha": 1e-6}, "alpha 1e-06 needs the momentum encoder"),
        ({"temp_min": 0.5}, "temp_min 0.5 must be less than temp_max 0.5"),
        ({"losses": ("itc",), "prompt": "a "}, "prompt 'a ' is used only by the loss lm"),
    ],
)
def test_inconsistent_objectives_are_rejected(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"queue_size": 0, "alpha": 0.0},
        {"queue_size": 1, "alpha": 1.0},
        {"queue_size": 0, "alpha": 0.4, "losses": ("itm", "lm")},
        {"temp_min": 0.499},
        {"losses": ("lm",), "prompt": "a "},
    ],
)
def test_consistent_objectives_are_accepted(values: dict) -> None:
    config = asdict(ObjectiveConfig(**values))
    assert {name: config[name] for name in values} == values


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"text": {"depht": 3}}, r"model\.text: unknown key depht; allowed keys: vocab_size, width"),
        (
            {"vision": {"size": 3, "age": 4}},
            r"model\.vision: unknown key age, size; allowed keys: image_size",
        ),
        ({"parts_": "filter"}, "model: unknown key parts_; allowed keys: vision, text"),
    ],
)
def test_unknown_keys_are_rejected_with_their_section(section: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MedConfig.from_dict(section)
