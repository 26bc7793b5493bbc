"""Floating-point operations of a training step, and the peak of the device.

Model FLOPs utilization as in PaLM (arXiv 2204.02311, appendix B): the operations that the model requires,
without recomputation, divided by those that the device could perform.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from capfilt.models.training.objectives import Objective, PairBatch

BACKWARD_COST = 2  # relative to forward: one product for the gradient of inputs, one for that of weights

# Dense bfloat16 peaks in FLOP/s from NVIDIA's data sheets. The first entry contained in the device name
# applies.
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
    """Floating-point operations of one training step: forward and backward of the model, forward of the
    teacher.

    Counts matrix products, convolutions and attention, not norms and activations. Neither the state of the
    objective nor that of torch's random generator changes.
    """
    training, teacher = objective.training, objective.teacher
    objective.eval()
    try:
        with_teacher = _forward_flops(objective, batch)
        objective.teacher = None
        model = _forward_flops(objective, batch)
    finally:
        objective.teacher = teacher
        objective.train(training)
    return (1 + BACKWARD_COST) * model + (with_teacher - model)


def peak_flops(device: torch.device, bfloat16: bool) -> float | None:
    """Peak FLOP/s of the device in bfloat16; None if unknown (CPUs, float32, GPUs not listed)."""
    if device.type != "cuda" or not bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BFLOAT16.items() if part in name), None)


@torch.no_grad()
def _forward_flops(objective: Objective, batch: PairBatch) -> int:
    with FlopCounterMode(display=False) as counter:
        objective(batch)
    return int(counter.get_total_flops())
