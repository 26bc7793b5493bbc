"""AdamW and its learning-rate schedule (BLIP, arXiv 2201.12086, section 4.1 and Table 14)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from capfilt.models.config import OptimizerConfig

# Parameters with at least two dimensions that are offsets, not matrices.
OFFSETS = ("pos_embed", "cls_token", "position_embeddings.weight")


def learning_rate(config: OptimizerConfig, step: int, total_steps: int, steps_per_epoch: float) -> float:
    """Learning rate of optimizer step `step`, where 0 is the first of `total_steps`.

    Warm-up rises from `warmup_lr` to the rate that the decay has reached, so there is no jump at its end even
    if it spans several epochs. (The reference ends warm-up after the first epoch in any case.)
    """
    decayed = _decayed_rate(config, step, total_steps, steps_per_epoch)
    if step >= config.warmup_steps:
        return decayed
    return config.warmup_lr + (decayed - config.warmup_lr) * step / config.warmup_steps


def _decayed_rate(config: OptimizerConfig, step: int, total_steps: int, steps_per_epoch: float) -> float:
    epoch, epochs = step / steps_per_epoch, total_steps / steps_per_epoch
    if config.decay_every == "epoch":
        epoch = math.floor(epoch)
    remaining = 1 - min(epoch / epochs, 1.0)
    if config.schedule == "exponential":
        return max(config.min_lr, config.lr * math.pow(config.decay_rate, epoch))
    if config.schedule == "cosine":
        remaining = (1 + math.cos(math.pi * (1 - remaining))) / 2
    elif config.schedule == "constant":
        remaining = 1.0
    return config.min_lr + (config.lr - config.min_lr) * remaining


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Create AdamW for the parameters that require gradients, in groups by weight decay and learning rate.

    Args:
        model: a MED, or a module that contains one, such as an Objective.
        config: learning rate and weight decay.

    Returns:
        The optimizer. Each group has an "lr_scale", which `set_learning_rate` uses.
    """
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = config.vision_lr_scale if "visual_encoder." in name else 1.0
            decay = config.weight_decay if config.decay_all or _is_matrix(name, parameter) else 0.0
            members.setdefault((scale, decay), []).append(parameter)
    groups = [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay, "lr": config.lr * scale}
        for (scale, decay), parameters in sorted(members.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip_gradient(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.Tensor:
    """Clip the gradient norm to `config.clip_grad`, if that is not 0.

    Returns:
        The norm before clipping, a scalar.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    if config.clip_grad:
        return nn.utils.clip_grad_norm_(with_gradient, config.clip_grad)
    return nn.utils.get_total_norm(
        [parameter.grad for parameter in with_gradient if parameter.grad is not None]
    )


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """True for matrices and convolutions; False for offsets, norms, biases and the temperature."""
    return parameter.ndim > 1 and not name.endswith(OFFSETS)
