"""Runs a model in micro-batches, and halves them when memory runs out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from capfilt.models.out_of_memory import OutOfMemory
from capfilt.models.tasks.model_rate import ModelRate

log = logging.getLogger(__name__)

Result = TypeVar("Result")

OUT_OF_MEMORY_MESSAGES = (
    "out of memory",  # CUDA runtime ("CUDA error: out of memory"), NCCL ("Cuda failure 2 'out of memory'")
    "allocate memory",  # torch's CPU allocator, and ENOMEM on Linux
    "not enough memory",  # torch's CPU allocator on Windows
    "bad_alloc",  # C++
    "ALLOC_FAILED",  # cuBLAS, and cuDNN before version 9
    "ALLOCATION_FAILED",  # cuDNN
)
"""Parts of the messages of out-of-memory errors that have no exception class of their own."""


class MicroBatches:
    """Calls a function on at most `size` items at a time; `size` is halved permanently when memory runs out.

    `on_progress` is called after each micro-batch. `on_notice` receives a line for the user when `size` is
    halved.

    Args:
        size: maximum items at a time.
        unit: what the items are, for messages.
    """

    def __init__(self, size: int, unit: str = "images") -> None:
        if size < 1:
            raise ValueError(f"batch_size is {size}: it must be at least 1")
        self.size, self.unit = size, unit
        self.done = 0
        """How much is done, set by a function that counts something else than calls for `on_progress`."""
        self.rate = ModelRate()
        """Of functions that return a list with one result for each image."""
        self.on_progress: Callable[[], None] = lambda: None
        self.on_notice: Callable[[str], None] = log.warning

    def run(self, function: Callable[[slice], list[Result]], count: int) -> list[Result]:
        """Compute one result for each of `count` items, in order; `function` computes those of a slice.

        Raises:
            OutOfMemory: memory does not suffice for one item.
        """
        results: list[Result] = []
        while len(results) < count:
            results += self.run_once(partial(_call_with_slice, function, len(results)), count - len(results))
        return results

    def run_once(self, function: Callable[[int], Result], limit: int) -> Result:
        """Call `function` with the number of items to process: `size`, but at most `limit` (at least 1).

        When memory runs out, the call is repeated with half as many items; work of the failed call is lost.

        Raises:
            OutOfMemory: memory does not suffice for one item.
        """
        size_before = self.size
        while True:
            tried = min(self.size, limit)
            start = time.perf_counter()
            try:
                result = function(tried)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if tried == 1:
                    self.size = size_before  # a failure at every size is no reason to keep the smallest
                    raise self._out_of_memory() from error
            else:
                if isinstance(result, list):
                    self.rate.add(len(result), time.perf_counter() - start)
                self.on_progress()
                return result
            # Outside the except block, whose traceback keeps the tensors of the failed call alive.
            self._halve(tried)

    def _halve(self, tried: int) -> None:
        self.size = tried // 2
        self.on_notice(f"out of memory with a batch of {tried} {self.unit}; continuing with {self.size}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _out_of_memory(self) -> OutOfMemory:
        return OutOfMemory(
            f"out of memory even with a batch size of 1 ({self.unit}); free memory of the device and the "
            "host, or set precision to bfloat16 or a smaller image_size"
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that device or host memory ran out.

    Only CUDA's allocator has an error class in torch. torch's CPU allocator and CUDA's libraries raise a
    RuntimeError, and the operating system an OSError; these are recognized by their messages.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, (RuntimeError, OSError)):
        return False
    message = str(error)
    return any(part in message for part in OUT_OF_MEMORY_MESSAGES)


def _call_with_slice(function: Callable[[slice], Result], start: int, size: int) -> Result:
    return function(slice(start, start + size))
