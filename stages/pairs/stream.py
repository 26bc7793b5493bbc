"""The samples of one worker of a training, batch by batch, in an order that depends only on the seed.

The order of all samples is that of `order`, equal for any number of workers; a worker receives the samples
that it trains on (`samples.Division`), window by window, and memory holds its part of one window. The next
window is requested as soon as it is known where it begins, so that it is read while this one is trained on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, takewhile
from typing import Any

from capfilt.stages.pairs.cut import OpenedWindow, WindowCut, load_samples
from capfilt.stages.pairs.order import OrderConfig, Position, Window, is_one_window, plan_windows
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.samples import Division, SampleSource

RequestWindow = Callable[[WindowCut], OpenedWindow]
"""Asks for a window, without waiting for it."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig(OrderConfig):
    """Order, division and end of a stream."""

    division: Division
    once: bool = False
    """Only the first epoch, filled up to whole batches with its first samples. Otherwise the stream has no
    end."""


@dataclass(frozen=True)
class EpochBytes:
    """Bytes of one worker since the epoch began, or since the stream was resumed in it."""

    read: float = 0.0
    """Read from the run directory, divided by the number of workers."""
    received: int = 0
    """Received by the worker."""

    def plus(self, read: float, received: int) -> EpochBytes:
        """With the bytes of another window."""
        return EpochBytes(self.read + read, self.received + received)


@dataclass(frozen=True)
class OwnBatch:
    """One worker's part of a global batch."""

    samples: list[Any]
    """In the order of the stream: the worker's slice of each piece, one after the other."""
    position: Position
    """Of the stream after the global batch."""
    epoch_bytes: EpochBytes


@dataclass(frozen=True)
class _Extent:
    """A window, and the place of its samples in the stream."""

    window: Window
    first: int
    """Number of the first sample that was not skipped."""
    skipped: int
    end: int
    """Number behind its last sample."""
    opened: OpenedWindow

    def position(self, end: int) -> Position:
        """The position behind the sample `end` - 1."""
        return Position(self.window.epoch, self.window.number, end - self.first + self.skipped)


class SampleStream:
    """The samples of one worker.

    Args:
        shards: the training shards, in any order.
        source: reads them.
        request: opens the worker's part of a window.
        config: order, division and end.
    """

    def __init__(
        self,
        shards: Sequence[ShardRef],
        source: SampleSource,
        request: RequestWindow,
        config: StreamConfig,
    ) -> None:
        assert shards, "training needs at least one shard"
        self.shards = sorted(shards, key=lambda ref: (ref.source, ref.shard))
        self.source, self.request, self.config = source, request, config
        self.samples = 0
        """Samples of the epoch of a stream that is read once; known when it has been read."""
        self._end = 0
        """Number behind the last sample of the windows opened so far."""
        self._last_end = math.inf
        """Number behind the last batch; known when the epoch of a stream that is read once has been read."""

    def batches(self, position: Position | None = None, first: int = 0) -> Iterator[OwnBatch]:
        """The batches from a position on.

        Args:
            position: of the first sample; None: the beginning.
            first: number of that sample in the stream, a multiple of the batch size.
        """
        division = self.config.division
        end = first + division.batch_size
        pending: deque[Any] = deque()
        epoch, received = None, EpochBytes()
        for extent in self._open_windows(position or Position(), first):
            own, size = load_samples(extent.opened.parts())
            pending.extend(own)
            del own  # or it would keep the samples until the next window has arrived, too
            if extent.window.epoch != epoch:
                epoch, received = extent.window.epoch, EpochBytes()
            received = received.plus(extent.opened.read_bytes / division.workers, size)
            while end <= min(extent.end, self._last_end):
                samples = [pending.popleft() for _ in range(division.own)]
                yield OwnBatch(samples, extent.position(end), received)
                end += division.batch_size

    def _open_windows(self, position: Position, first: int) -> Iterator[_Extent]:
        """The windows from the position on; the next one is requested before this one is returned."""
        windows, skipped, self._end = self._plan(position), position.offset, first
        window = next(windows, None)
        opened = None if window is None else self._request(window, first, skipped)
        while window is not None and opened is not None:
            extent = _Extent(window, first, skipped, first + sum(opened.counts) - skipped, opened)
            first = self._end = extent.end
            window, skipped = next(windows, None), 0
            opened = None if window is None else self._request(window, first, skipped)
            yield extent

    def _request(self, window: Window, first: int, skipped: int) -> OpenedWindow:
        return self.request(
            WindowCut(
                source=self.source,
                window=window,
                seed=self.config.seed,
                first=first,
                skipped=skipped,
                division=self.config.division,
                is_kept=is_one_window(self.shards, self.config),
            )
        )

    def _plan(self, position: Position) -> Iterator[Window]:
        windows = plan_windows(self.shards, self.config, position)
        return self._plan_once(windows) if self.config.once else windows

    def _plan_once(self, windows: Iterator[Window]) -> Iterator[Window]:
        """The windows of one epoch, and again as many of them as the last batch needs to be full."""
        epoch = list(takewhile(lambda window: window.epoch == 0, windows))
        yield from epoch
        size = self.config.division.batch_size
        self.samples, self._last_end = self._end, -(-self._end // size) * size
        for window in cycle(epoch):
            if self._end >= self._last_end:
                return
            yield window
