"""Resolves the configured precision for a device."""

from __future__ import annotations

import torch

from capfilt.models.config import Precision


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16; "auto" does so on GPUs with native support (NVIDIA Ampere or later)."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16"
