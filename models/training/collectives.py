"""Tensors of all workers, side by side in rank order; they pass through where torch.distributed is unused.

Every worker must call these with equal shapes and in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """(rank, number of workers); (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(tensor: Tensor) -> Tensor:
    """[B, ...] of every worker as [workers * B, ...]; carries no gradient."""
    _, workers = world()
    if workers == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(workers)]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """As `gather`, and each worker's part receives what all workers' losses send back to it.

    The gradients are summed: a data-parallel wrapper then averages over workers, and the result is the
    gradient of the mean of the workers' losses.
    """
    _, workers = world()
    return tensor if workers == 1 else _Gather.apply(tensor)


def sum_over_workers(value: Tensor) -> Tensor:
    """The sum of one value per worker; carries no gradient."""
    _, workers = world()
    total = value.detach().clone()
    if workers > 1:
        dist.all_reduce(total)
    return total


def max_over_workers(value: int, device: torch.device) -> int:
    """The largest of one integer per worker."""
    _, workers = world()
    if workers == 1:
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def average_gradients(module: torch.nn.Module) -> None:
    """Mean of the gradients over all workers, in one message per 64 MB; nothing to do alone."""
    workers = world()[1]
    if workers == 1:
        return
    gradients = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients, 64 << 20):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        flat /= workers
        parts = flat.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(tensors: list[torch.Tensor], limit: int) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= limit:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = world()[0] * ctx.rows
        return total[start : start + ctx.rows]
