"""Encoded bytes to an RGB picture, and pictures to the pixels a vision transformer takes.

Whatever the file holds (a turned photograph, transparency, a palette, CMYK, 16 bits), what comes out is what
a person would see on a white page; what cannot be decoded whole is an error, never half a picture.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# CLIP's channel statistics, which BLIP uses for every task.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def to_pixels(images: list[Image.Image], size: int) -> Tensor:
    """RGB pictures -> uint8 [B, 3, size, size]: squashed to a square, bicubic, no crop (BLIP's test
    transform)."""
    pixels = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        pixels[row] = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def normalize(
    pixels: Tensor, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """uint8 [B, 3, S, S] -> (pixels / 255 - MEAN) / STD in `dtype` on `device` (moved as bytes, a quarter of
    floats)."""
    pixels = pixels.to(device=device, non_blocking=True)
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1)
    return ((pixels.float() / 255 - mean) / std).to(dtype)
