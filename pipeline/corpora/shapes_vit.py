"""The quickstart's image encoder start: a tiny ViT that learnt to name one shape and its colour.

It stands in for the ImageNet weights the paper starts from (section 4.1): without a start, image-text
training of so few steps does not ground a single word. The images are drawn anew from a seed of their own,
one shape each, so no image or text of a corpus is seen.

    python -m pipeline.corpora.shapes_vit configs/starts/shapes-vit.safetensors
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
from capfilt.pipeline.corpora.shapes import COLOURS, SHAPES, draw_scene, paint

VISION = VisionConfig(image_size=32, patch_size=8, width=64, depth=2, heads=4, stem="conv")
"""The encoder of configs/quickstart.yaml."""
DRAWN_SIZE = 64  # pixels of the corpus's images; the encoder sees them at half of that
TEST_IMAGES = 2000


class Classifier(nn.Module):
    """The encoder with two linear heads on its CLS token."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vit = build_vit(config)
        self.colour = nn.Linear(config.width, len(COLOURS))
        self.shape = nn.Linear(config.width, len(SHAPES))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, 3, S, S] to logits of colour [B, 8] and of shape [B, 6]."""
        cls = self.vit.forward_features(normalize(pixels))[:, 0]
        return self.colour(cls), self.shape(cls)


def draw(first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Images number `first` on, one shape each: uint8 [count, 3, size, size] and (colour, shape) [count, 2]."""
    images, labels = [], []
    for number in range(first, first + count):
        random = Random(f"start/{number}")
        thing = draw_scene(random, objects=1)[0]
        images.append(paint((thing,), DRAWN_SIZE, random))
        labels.append((list(COLOURS).index(thing.colour), list(SHAPES).index(thing.shape)))
    return to_pixels(images, size), torch.tensor(labels)


def train(steps: int, batch_size: int, lr: float) -> tuple[Classifier, dict[str, float]]:
    """Train on `steps` batches, none seen twice; return the model and its accuracy on fresh images."""
    torch.manual_seed(0)
    model = Classifier(VISION)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    size = VISION.image_size
    for step in range(steps):
        pixels, labels = draw(TEST_IMAGES + step * batch_size, batch_size, size)
        colour, shape = model(pixels)
        loss = F.cross_entropy(colour, labels[:, 0]) + F.cross_entropy(shape, labels[:, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)
    return model, accuracy(model.eval(), *draw(0, TEST_IMAGES, size))


@torch.inference_mode()
def accuracy(model: Classifier, pixels: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of images whose colour, and whose shape, is named right."""
    colour, shape = model(pixels)
    return {
        "colour_accuracy": (colour.argmax(dim=1) == labels[:, 0]).float().mean().item(),
        "shape_accuracy": (shape.argmax(dim=1) == labels[:, 1]).float().mean().item(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Train and write a safetensors file of timm's names in float16."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.corpora.shapes_vit", description=__doc__)
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    given = parser.parse_args(arguments)
    model, reached = train(given.steps, given.batch_size, given.lr)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in model.vit.state_dict().items()}
    about = {"vision": asdict(VISION), "steps": given.steps, "batch_size": given.batch_size, **reached}
    save_file(tensors, given.out, metadata={"capfilt": json.dumps(about)})
    print(f"{given.out}: {reached}")


if __name__ == "__main__":
    main()
