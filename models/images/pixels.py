"""Converts RGB images to the pixel tensors that the image encoder takes."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Channel mean and standard deviation of CLIP, which BLIP uses for every task.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def to_pixels(images: list[Image.Image], size: int) -> Tensor:
    """Resize images to a square without cropping, bicubic, as BLIP's test transform: uint8 [B, 3, size,
    size]."""
    pixels = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        pixels[row] = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def normalize(
    pixels: Tensor, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Normalize uint8 pixels [B, 3, S, S]: (pixels / 255 - MEAN) / STD.

    Args:
        pixels: the pixels, on any device.
        dtype: dtype of the result.
        device: device of the result; pixels are moved as bytes, a quarter of the size of floats. None: their
            own.
    """
    pixels = pixels.to(device=device, non_blocking=True)
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1)
    return ((pixels.float() / 255 - mean) / std).to(dtype)
