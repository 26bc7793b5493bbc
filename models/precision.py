"""In which numbers a model computes."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16; "auto" does on GPUs that have it natively (NVIDIA: from Ampere on)."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16"
