"""Training of the quickstart's image encoder: its images, its labels and the file that it writes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from capfilt.models.network.vit import build_vit
from capfilt.pipeline.corpora import shapes_vit
from capfilt.pipeline.corpora.scenes import COLORS
from capfilt.pipeline.corpora.shapes_vit import VISION, main, measure_accuracy, paint_batch


def test_images_are_labeled_with_the_color_that_they_show() -> None:
    pixels, labels = paint_batch(10, 20, 32)
    assert pixels.shape == (20, 3, 32, 32) and pixels.dtype == torch.uint8 and labels.shape == (20, 2)
    for image, (color, _) in zip(pixels.int(), labels.tolist(), strict=True):
        named = torch.tensor(list(COLORS.values())[color])[:, None, None]
        assert ((image - named).abs().amax(dim=0) < 30).sum() > 10


def test_an_image_depends_only_on_its_number() -> None:
    pixels, labels = paint_batch(3, 4, 32)
    again, labels_again = paint_batch(5, 1, 32)
    assert torch.equal(pixels[2], again[0]) and torch.equal(labels[2], labels_again[0])


def test_accuracy_is_measured_for_color_and_shape() -> None:
    def predict(pixels):
        return torch.eye(8)[[0, 1, 2, 3]], torch.eye(6)[[0, 0, 0, 0]]

    labels = torch.tensor([[0, 0], [1, 1], [2, 2], [0, 3]])
    found = measure_accuracy(predict, torch.zeros(4, 3, 32, 32), labels)
    assert found == {"colour_accuracy": 0.75, "shape_accuracy": 0.25}


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
