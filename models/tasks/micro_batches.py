"""NEW FILE."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from capfilt.models.out_of_memory import OutOfMemory

log = logging.getLogger(__name__)

Done = TypeVar("Done")
Row = TypeVar("Row")


OUT_OF_MEMORY = (
    "out of memory",  # CUDA's runtime ("CUDA error: out of memory") and NCCL ("Cuda failure 2 'out of memory'")
    "allocate memory",  # torch's CPU allocator, and what Linux calls ENOMEM
    "not enough memory",  # torch's CPU allocator on Windows
    "bad_alloc",  # C++
    "ALLOC_FAILED",  # cuBLAS, and cuDNN before version 9
    "ALLOCATION_FAILED",  # cuDNN
)
"""What errors say for which torch has no class of its own."""


class MicroBatches:
    """Runs a function over images, or items of another kind, at most `size` at a time; halved for good when device or
    host lack memory.

    `on_progress` is called after each micro-batch, `on_notice` with a line for people when the size is halved.

    Args:
        size: items at a time.
        of: what they are called.
    """

    def __init__(self, size: int, of: str = "images") -> None:
        if size < 1:
            raise ValueError(f"batch_size is {size}; it must be at least 1")
        self.size, self.of = size, of
        self.on_progress: Callable[[], None] = lambda: None
        self.on_notice: Callable[[str], None] = log.warning

    def run(self, function: Callable[[slice], list[Row]], count: int) -> list[Row]:
        """One result for each of `count` items, in order; `function` gives those of a slice.

        Raises:
            OutOfMemory: as `fit`.
        """
        results: list[Row] = []
        while len(results) < count:
            results += self.fit(partial(_next, function, len(results)), count - len(results))
        return results

    def fit(self, function: Callable[[int], Done], most: int) -> Done:
        """What `function` gives for as many items at a time as there is memory for, at most `most` (at least 1).

        It is called anew with fewer when memory did not suffice, and does again what it had done by then.

        Raises:
            OutOfMemory: not even one item at a time fits.
        """
        before = self.size
        while True:
            tried = min(self.size, most)
            try:
                done = function(tried)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if tried == 1:
                    self.size = before  # what no size cures says nothing of the size
                    raise self._shortage() from error
            else:
                self.on_progress()
                return done
            # Outside the handler, whose traceback held the tensors of the failed attempt.
            self._halve(tried)

    def _halve(self, tried: int) -> None:
        self.size = tried // 2
        self.on_notice(f"out of memory with {tried} {self.of} at once, going on with {self.size}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _shortage(self) -> OutOfMemory:
        return OutOfMemory(
            f"out of memory even with {self.of} one at a time; end what else holds memory of the device and the "
            "host, or give precision bfloat16 or a smaller image_size"
        )


def _next(function: Callable[[slice], Done], start: int, size: int) -> Done:
    return function(slice(start, start + size))


def is_out_of_memory(error: Exception) -> bool:
    """Whether device or host lacked memory. Beside the error torch has for the device, its CPU allocator and
    CUDA's libraries raise plain RuntimeErrors, told by their text alone, and the system OSErrors."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(words in str(error) for words in OUT_OF_MEMORY)
