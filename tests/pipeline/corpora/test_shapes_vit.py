"""Training of the quickstart's image encoder: its images, its labels and the file that it writes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from capfilt.models.network.vit import build_vit
from capfilt.pipeline.corpora import shapes_vit
from capfilt.pipeline.corpora.scenes import COLORS, SHAPES, SceneObject
from capfilt.pipeline.corpora.shapes_vit import (
    UNLABELED,
    VISION,
    SceneBatch,
    compute_loss,
    label_scene,
    main,
    measure_accuracy,
    paint_batch,
)


def test_patches_are_labeled_with_the_color_that_they_show() -> None:
    batch = paint_batch(10, 20)
    assert batch.pixels.shape == (20, 3, 32, 32) and batch.pixels.dtype == torch.uint8
    assert batch.color.shape == batch.shape.shape == (20, 16) and batch.present.shape == (20, 48)
    for image, colors, present in zip(batch.pixels.int(), batch.color, batch.present, strict=True):
        named = set(colors.tolist()) - {UNLABELED}
        assert named == {kind // len(SHAPES) for kind in present.nonzero().flatten().tolist()}
        for color in named:
            value = torch.tensor(list(COLORS.values())[color])[:, None, None]
            assert ((image - value).abs().amax(dim=0) < 40).sum() > 5


def test_labels_of_a_scene_stand_where_the_object_is() -> None:
    scene = (
        SceneObject("green", "star", x=0.125, y=0.125, radius=0.12),  # in the middle of the first patch
        SceneObject("black", "ring", x=0.75, y=0.625, radius=0.12),  # between two patches of the third row
    )
    color, shape, present = label_scene(scene)
    green, black = list(COLORS).index("green"), list(COLORS).index("black")
    star, ring = list(SHAPES).index("star"), list(SHAPES).index("ring")
    assert {patch: kind for patch, kind in enumerate(color) if kind != UNLABELED} == {
        0: green, 10: black, 11: black,
    }  # fmt: skip
    assert {patch: kind for patch, kind in enumerate(shape) if kind != UNLABELED} == {
        0: star, 10: ring, 11: ring,
    }  # fmt: skip
    assert [kind for kind, there in enumerate(present) if there] == sorted(
        [green * len(SHAPES) + star, black * len(SHAPES) + ring]
    )


def test_an_image_depends_only_on_its_number() -> None:
    batch, again = paint_batch(3, 4), paint_batch(5, 1)
    for all_of_them, one in zip(batch, again, strict=True):
        assert torch.equal(all_of_them[2], one[0])


def perfect_model(batch: SceneBatch):
    """A model that reads its answers from the labels."""

    def predict(pixels):
        color = torch.nn.functional.one_hot(batch.color.clamp(min=0), len(COLORS)).float() * 50
        shape = torch.nn.functional.one_hot(batch.shape.clamp(min=0), len(SHAPES)).float() * 50
        place = torch.eye(16).expand(len(pixels), 16, 16) * 50
        return color, shape, place, (batch.present - 0.5) * 100

    return predict


def test_accuracy_counts_labeled_patches_and_whole_scenes() -> None:
    batch = paint_batch(0, 4)
    assert measure_accuracy(perfect_model(batch), batch) == {
        "color_accuracy": 1.0, "shape_accuracy": 1.0, "scene_accuracy": 1.0,
    }  # fmt: skip
    wrong = batch._replace(
        color=torch.where(batch.color == UNLABELED, UNLABELED, (batch.color + 1) % len(COLORS)),
        present=torch.cat([batch.present[:3], 1 - batch.present[3:]]),
    )
    assert measure_accuracy(perfect_model(batch), wrong) == {
        "color_accuracy": 0.0, "shape_accuracy": 1.0, "scene_accuracy": 0.75,
    }  # fmt: skip


def test_loss_is_zero_only_when_every_head_is_right() -> None:
    batch = paint_batch(0, 4)
    right = perfect_model(batch)
    assert compute_loss(right, batch).item() == pytest.approx(0.0, abs=1e-6)

    for head in range(4):

        def predict(pixels, head=head):
            answers = list(right(pixels))
            answers[head] = -answers[head]
            return tuple(answers)

        assert compute_loss(predict, batch).item() > 1


def test_command_writes_the_encoder_in_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes_vit, "TEST_IMAGES", 8)
    path = tmp_path / "new/start.safetensors"
    main([str(path), "--steps", "3", "--batch-size", "4"])
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["capfilt"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about["steps"] == 3 and about["vision"]["width"] == VISION.width
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    build_vit(VISION).load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
