"""AdamW and its learning rate, as BLIP trains (arXiv 2201.12086, section 4.1 and table 14)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from capfilt.models.config import OptimizerConfig

# Parameters with two or more dimensions that are offsets, not matrices.
POSITIONS = ("pos_embed", "cls_token", "position_embeddings.weight")


def learning_rate(config: OptimizerConfig, step: int, total_steps: int, steps_per_epoch: float) -> float:
    """Learning rate of optimizer step `step` (0 is the first of `total_steps`).

    Warm-up rises from `warmup_lr` to whatever the decay has reached, so that it may span epochs without a
    jump at its end (the reference stops it after the first epoch, wherever it is).
    """
    decayed = _decayed(config, step, total_steps, steps_per_epoch)
    if step >= config.warmup_steps:
        return decayed
    return config.warmup_lr + (decayed - config.warmup_lr) * step / config.warmup_steps


def _decayed(config: OptimizerConfig, step: int, total_steps: int, steps_per_epoch: float) -> float:
    epoch, epochs = step / steps_per_epoch, total_steps / steps_per_epoch
    if config.decay_every == "epoch":
        epoch = math.floor(epoch)
    left = 1 - min(epoch / epochs, 1.0)
    if config.schedule == "exponential":
        return max(config.min_lr, config.lr * math.pow(config.decay_rate, epoch))
    if config.schedule == "cosine":
        left = (1 + math.cos(math.pi * (1 - left))) / 2
    elif config.schedule == "constant":
        left = 1.0
    return config.min_lr + (config.lr - config.min_lr) * left


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that take gradients, in groups by decay and by learning rate.

    Args:
        model: a MED, or a module that holds one (an Objective, wrapped or not).
        config: rates and decay.

    Returns:
        The optimizer; each group carries "lr_scale", which `set_learning_rate` reads.
    """
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = config.vision_lr_scale if "visual_encoder." in name else 1.0
            decay = config.weight_decay if config.decay_all or _decays(name, parameter) else 0.0
            members.setdefault((scale, decay), []).append(parameter)
    groups = [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay, "lr": config.lr * scale}
        for (scale, decay), parameters in sorted(members.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip_gradient(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.Tensor:
    """Scale the gradient down to `config.clip_grad` where it is longer.

    Returns:
        Its norm before, a scalar.
    """
    held = [parameter for parameter in parameters if parameter.grad is not None]
    if config.clip_grad:
        return nn.utils.clip_grad_norm_(held, config.clip_grad)
    return nn.utils.get_total_norm([parameter.grad for parameter in held if parameter.grad is not None])


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Matrices and convolutions do; norms, biases, the temperature (all of at most one dimension) do not."""
    return parameter.ndim > 1 and not name.endswith(POSITIONS)
