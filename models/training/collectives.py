"""Collective operations on the tensors of all workers; identities without torch.distributed.

All workers must call them in the same order and with equal shapes. Gathered tensors are in rank order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 64 << 20
"""Size from which `average_gradients` sends a message."""


def world() -> tuple[int, int]:
    """(rank, number of workers); (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the tensors [B, ...] of all workers to [workers * B, ...], without gradient."""
    _, workers = world()
    if workers == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor) for _ in range(workers)]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Like `gather`, but each worker's part receives the gradients of the losses of all workers.

    The gradients are summed. Averaging the parameters' gradients over workers then gives the gradient of the
    mean of the workers' losses.
    """
    _, workers = world()
    return tensor if workers == 1 else _Gather.apply(tensor)


def sum_over_workers(value: Tensor) -> Tensor:
    """Sum a value over all workers, without gradient."""
    _, workers = world()
    total = value.detach().clone()
    if workers > 1:
        dist.all_reduce(total)
    return total


def max_over_workers(value: int, device: torch.device) -> int:
    """The maximum of an integer over all workers."""
    _, workers = world()
    if workers == 1:
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def average_gradients(module: torch.nn.Module) -> None:
    """Replace the gradients of a module by their mean over all workers, in messages of about 64 MB."""
    workers = world()[1]
    if workers == 1:
        return
    gradients = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for bucket in _make_buckets(gradients, BUCKET_BYTES):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        flat /= workers
        parts = flat.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _make_buckets(tensors: list[Tensor], limit: int) -> Iterator[list[Tensor]]:
    """Group tensors in order; a group ends when it reaches `limit` bytes."""
    bucket: list[Tensor] = []
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
