"""The order of a training's samples, a function of the seed alone.

The shards of an epoch are permuted and cut into windows of a few shards; the samples of a window are permuted
together. A position is (epoch, window, offset), so that training resumes at the exact sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capfilt.stages.pairs.parts import ShardRef

Numbers = NDArray[np.int64]


@dataclass
class Position:
    """The next sample: sample `offset` of window `window` of epoch `epoch`."""

    epoch: int = 0
    window: int = 0
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """What determines the order."""

    seed: int
    window_shards: int
    """Shards whose samples are permuted together; more shuffle better and use more memory."""


@dataclass(frozen=True)
class Window:
    """Shards whose samples are permuted together."""

    epoch: int
    number: int
    """In its epoch."""
    shards: tuple[ShardRef, ...]

    def permute(self, seed: int, samples: int) -> Numbers:
        """The samples of the window in the order in which they are trained on.

        Args:
            samples: number of samples in all shards.

        Returns:
            For each offset the number of the sample, counted through the shards.
        """
        return np.random.default_rng([seed, self.epoch, self.number + 1]).permutation(samples)


def plan_windows(
    shards: Sequence[ShardRef], config: OrderConfig, start: Position | None = None
) -> Iterator[Window]:
    """The windows from a position on, epoch after epoch, without end.

    Args:
        shards: the training shards, ordered by source and number.
        start: in the first of the windows; None for the beginning.
    """
    start, size = start or Position(), config.window_shards
    epoch, first = start.epoch, start.window
    while True:
        used = [ref for ref in shards if ref.is_in_epoch(epoch)]
        order = np.random.default_rng([config.seed, epoch, 0]).permutation(len(used))
        if is_one_window(shards, config):
            order = np.arange(len(used))  # only the order of its samples counts
        for window in range(first, -(-len(order) // size)):
            chosen = order[window * size : (window + 1) * size]
            yield Window(epoch, window, tuple(used[number] for number in chosen))
        epoch, first = epoch + 1, 0


def is_one_window(shards: Sequence[ShardRef], config: OrderConfig) -> bool:
    """Whether all shards fit into one window."""
    return len(shards) <= config.window_shards
