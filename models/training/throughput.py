"""How much of a device a training uses: arithmetic per step by count, and the device's peak by name.

Model FLOPs utilisation as in PaLM (arXiv 2204.02311, appendix B): the arithmetic that the model needs, not what
recomputation adds, over what the device could do.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from capfilt.models.training.objectives import Objective, PairBatch

BACKWARD = 2  # gradients cost twice the forward pass: one product for the inputs, one for the weights

# Dense bfloat16 tensor-core peaks, FLOP/s, from NVIDIA's data sheets; the first name found in the device's counts.
PEAK_BFLOAT16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A40": 150e12,
    "A10": 125e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def training_flops(objective: Objective, batch: PairBatch) -> int:
    """Floating-point operations of one training step on `batch`: forward and backward of the model, forward of the
    momentum encoder. Matrix products, convolutions and attention count; norms and activations do not.

    Nothing of the objective's state changes, and no random number is drawn.
    """
    training, teacher = objective.training, objective.teacher
    objective.eval()
    try:
        everything = _forward_flops(objective, batch)
        objective.teacher = None
        model = _forward_flops(objective, batch)
    finally:
        objective.teacher = teacher
        objective.train(training)
    return (1 + BACKWARD) * model + (everything - model)


def peak_flops(device: torch.device, bfloat16: bool) -> float | None:
    """FLOP/s that the device could do in bfloat16; None where no data sheet says it (CPUs, float32)."""
    if device.type != "cuda" or not bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BFLOAT16.items() if part in name), None)


@torch.no_grad()
def _forward_flops(objective: Objective, batch: PairBatch) -> int:
    with FlopCounterMode(display=False) as counter:
        objective(batch)
    return int(counter.get_total_flops())
