"""Training of the quickstart's image encoder: a tiny ViT that classifies color and shape of an object.

It replaces the ImageNet weights that the paper starts from (section 4.1): without pretrained weights, the few
steps of the quickstart's image-text training do not ground a single word. Its images show one object each and
have a seed of their own, so that it sees no image and no text of a corpus.

    python -m capfilt.pipeline.corpora.shapes_vit configs/starts/shapes-vit.safetensors
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.config import VisionConfig
from capfilt.models.images.pixels import normalize, to_pixels
from capfilt.models.network.vit import build_vit
from capfilt.pipeline.corpora.scenes import COLORS, SHAPES, compose_scene, paint_scene

VISION = VisionConfig(image_size=32, patch_size=8, width=64, depth=2, heads=4, stem="conv")
"""The encoder of configs/quickstart.yaml."""
PAINTED_SIZE = 64
"""Side of the images of the corpus, pixels; they are resized to `VISION.image_size`."""
TEST_IMAGES = 2000


class Classifier(nn.Module):
    """The encoder with two linear heads on its CLS token."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vit = build_vit(config)
        self.color = nn.Linear(config.width, len(COLORS))
        self.shape = nn.Linear(config.width, len(SHAPES))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, 3, S, S] to logits of the color [B, 8] and of the shape [B, 6]."""
        cls = self.vit.forward_features(normalize(pixels))[:, 0]
        return self.color(cls), self.shape(cls)


def paint_batch(first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Paint the images number `first` to `first + count - 1`, with one object each.

    Returns:
        (pixels, labels): uint8 [count, 3, size, size] and the indices of (color, shape) [count, 2].
    """
    images, labels = [], []
    for number in range(first, first + count):
        random = Random(f"start/{number}")
        (item,) = compose_scene(random, count=1)
        images.append(paint_scene((item,), PAINTED_SIZE, random))
        labels.append((list(COLORS).index(item.color), list(SHAPES).index(item.shape)))
    return to_pixels(images, size), torch.tensor(labels)


def train(steps: int, batch_size: int, lr: float) -> tuple[Classifier, dict[str, float]]:
    """Train on `steps` batches without repeating an image.

    Returns:
        The model, and its accuracy on `TEST_IMAGES` other images.
    """
    torch.manual_seed(0)
    model = Classifier(VISION)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    size = VISION.image_size
    for step in range(steps):
        pixels, labels = paint_batch(TEST_IMAGES + step * batch_size, batch_size, size)
        color, shape = model(pixels)
        loss = F.cross_entropy(color, labels[:, 0]) + F.cross_entropy(shape, labels[:, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    return model, measure_accuracy(model.eval(), *paint_batch(0, TEST_IMAGES, size))


@torch.inference_mode()
def measure_accuracy(model: Classifier, pixels: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of images whose color, and whose shape, is classified correctly."""
    color, shape = model(pixels)
    return {
        "colour_accuracy": (color.argmax(dim=1) == labels[:, 0]).float().mean().item(),
        "shape_accuracy": (shape.argmax(dim=1) == labels[:, 1]).float().mean().item(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Train and write the encoder as a safetensors file with timm's names, in float16."""
    parser = argparse.ArgumentParser(
        prog="python -m capfilt.pipeline.corpora.shapes_vit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=6000)
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
