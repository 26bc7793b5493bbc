"""Training of the quickstart's image encoder: a tiny ViT that recognizes and locates the objects of a scene.

It replaces the ImageNet weights that the paper starts from (section 4.1): without pretrained weights, the few
steps of the quickstart's image-text training do not ground a single word. Its images have a seed of their
own, so that it sees no image and no text of a corpus. A patch in the middle of an object learns the object's
color and shape, every patch learns where it is, and the CLS token learns which objects the scene has.

    python -m capfilt.pipeline.corpora.shapes_vit configs/starts/shapes-vit.safetensors

Takes 2 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.config import VisionConfig
from capfilt.models.images.pixels import normalize, to_pixels
from capfilt.models.network.vit import build_vit
from capfilt.pipeline.corpora.scenes import COLORS, SHAPES, Scene, compose_scene, paint_scene

VISION = VisionConfig(image_size=32, patch_size=8, width=64, depth=2, heads=4, stem="conv")
"""The encoder of configs/quickstart.yaml."""
PAINTED_SIZE = 64
"""Side of the images of the corpus, pixels; they are resized to `VISION.image_size`."""
GRID = VISION.image_size // VISION.patch_size
REACH = 0.02 + 0.5 / GRID
"""Largest distance between the centers of a labeled patch and of its object, along each axis, as a fraction
of the image side."""
UNLABELED = -1
TEST_IMAGES = 2000
BATCHES_AHEAD = 8
"""Batches that are painted while others train."""
PLACE_WEIGHT, SCENE_WEIGHT = 0.5, 10.0
"""Weights of the losses of place and scene beside those of color and shape."""


class SceneBatch(NamedTuple):
    """Painted scenes and what is to be learned from them; P patches, in rows from the top left."""

    pixels: Tensor
    """uint8 [B, 3, S, S]"""
    color: Tensor
    """int64 [B, P]: index of the color of the object, `UNLABELED` in patches without one."""
    shape: Tensor
    """int64 [B, P]: the same for the shape."""
    present: Tensor
    """float32 [B, colors * shapes]: 1 for each kind of object in the scene."""


class SceneReader(nn.Module):
    """The encoder with linear heads."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vit = build_vit(config)
        self.color = nn.Linear(config.width, len(COLORS))
        self.shape = nn.Linear(config.width, len(SHAPES))
        self.place = nn.Linear(config.width, GRID * GRID)
        self.present = nn.Linear(config.width, len(COLORS) * len(SHAPES))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uint8 [B, 3, S, S] to logits of color [B, P, 8], shape [B, P, 6] and place [B, P, P] of each patch,
        and of the kinds of objects [B, 48]."""
        states = self.vit.forward_features(normalize(pixels))
        patches = states[:, 1:]
        return self.color(patches), self.shape(patches), self.place(patches), self.present(states[:, 0])


def paint_batch(first: int, count: int) -> SceneBatch:
    """Paint the scenes number `first` to `first + count - 1`, with their labels."""
    images, color, shape, present = [], [], [], []
    for number in range(first, first + count):
        random = Random(f"start/{number}")
        scene = compose_scene(random)
        images.append(paint_scene(scene, PAINTED_SIZE, random))
        labels = label_scene(scene)
        color.append(labels[0])
        shape.append(labels[1])
        present.append(labels[2])
    pixels = to_pixels(images, VISION.image_size)
    return SceneBatch(pixels, torch.tensor(color), torch.tensor(shape), torch.tensor(present))


def label_scene(scene: Scene) -> tuple[list[int], list[int], list[float]]:
    """The labels of a scene: color and shape of each patch, and which kinds of objects are present."""
    colors, shapes = list(COLORS), list(SHAPES)
    color, shape = [UNLABELED] * GRID**2, [UNLABELED] * GRID**2
    present = [0.0] * (len(colors) * len(shapes))
    for item in scene:
        kind = colors.index(item.color), shapes.index(item.shape)
        present[kind[0] * len(shapes) + kind[1]] = 1.0
        for patch in range(GRID**2):
            x, y = (patch % GRID + 0.5) / GRID, (patch // GRID + 0.5) / GRID
            if abs(x - item.x) <= REACH and abs(y - item.y) <= REACH:
                color[patch], shape[patch] = kind
    return color, shape, present


def train(steps: int, batch_size: int, lr: float) -> tuple[SceneReader, dict[str, float]]:
    """Train on `steps` batches without repeating an image.

    Returns:
        The model, and its accuracy on `TEST_IMAGES` other images.
    """
    torch.manual_seed(0)
    model = SceneReader(VISION)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    for step, batch in enumerate(_paint_ahead(steps, batch_size)):
        loss = compute_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    return model, measure_accuracy(model.eval(), paint_batch(0, TEST_IMAGES))


def _paint_ahead(steps: int, batch_size: int) -> Iterator[SceneBatch]:
    """The batches of a training, painted by another process."""
    with ProcessPoolExecutor(1) as painter:
        painted: list[Future[SceneBatch]] = []
        for step in range(steps + BATCHES_AHEAD):
            if step < steps:
                painted.append(painter.submit(paint_batch, TEST_IMAGES + step * batch_size, batch_size))
            if step >= BATCHES_AHEAD:
                yield painted.pop(0).result()


def compute_loss(model: SceneReader, batch: SceneBatch) -> Tensor:
    """Weighted sum of the losses of color, shape, place and scene."""
    color, shape, place, present = model(batch.pixels)
    places = torch.arange(GRID**2).expand(len(batch.pixels), -1)
    return (
        F.cross_entropy(color.flatten(0, 1), batch.color.flatten(), ignore_index=UNLABELED)
        + F.cross_entropy(shape.flatten(0, 1), batch.shape.flatten(), ignore_index=UNLABELED)
        + PLACE_WEIGHT * F.cross_entropy(place.flatten(0, 1), places.flatten())
        + SCENE_WEIGHT * F.binary_cross_entropy_with_logits(present, batch.present)
    )


@torch.inference_mode()
def measure_accuracy(model: SceneReader, batch: SceneBatch) -> dict[str, float]:
    """Share of labeled patches whose color, and whose shape, is recognized, and share of scenes of which all
    kinds of objects are."""
    color, shape, _, present = model(batch.pixels)
    labeled = batch.color != UNLABELED
    return {
        "color_accuracy": (color.argmax(dim=-1) == batch.color)[labeled].float().mean().item(),
        "shape_accuracy": (shape.argmax(dim=-1) == batch.shape)[labeled].float().mean().item(),
        "scene_accuracy": ((present > 0) == (batch.present > 0)).all(dim=1).float().mean().item(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Train and write the encoder as a safetensors file with timm's names, in float16."""
    parser = argparse.ArgumentParser(
        prog="python -m capfilt.pipeline.corpora.shapes_vit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args(arguments)
    model, accuracy = train(options.steps, options.batch_size, options.lr)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in model.vit.state_dict().items()}
    about = {"vision": asdict(VISION), "steps": options.steps, "batch_size": options.batch_size, **accuracy}
    save_file(tensors, options.out, metadata={"capfilt": json.dumps(about)})
    print(f"{options.out}: {accuracy}")


if __name__ == "__main__":
    main()
