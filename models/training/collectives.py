"""Collective operations on the tensors of all workers; identities without torch.distributed.

All workers must call them in the same order and with equal shapes. Gathered tensors are in rank order.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


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


def parallelize(module: torch.nn.Module) -> torch.nn.Module:
    """The module, whose gradients become their mean over all workers during the backward pass.

    The exchange overlaps with the backward pass. Parameters without gradient on all workers keep none. With
    one worker it is the module itself. State and attributes are those of the given module.
    """
    if world()[1] == 1:
        return module
    with warnings.catch_warnings():
        # torch 2.14 wants another name for `broadcast_buffers`, which 2.11 does not know.
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(
            module,
            broadcast_buffers=False,  # all workers change theirs alike
            find_unused_parameters=True,  # some losses leave parts of a model unused
            gradient_as_bucket_view=True,
        )


def without_exchange(module: torch.nn.Module, accumulates: bool) -> AbstractContextManager[object]:
    """Context of a forward and backward pass whose gradients are only accumulated, if `accumulates`: the
    workers exchange them in a later pass.

    Args:
        module: result of `parallelize`.
        accumulates: False for the last piece of a batch.
    """
    if accumulates and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


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
