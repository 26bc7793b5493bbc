"""Cuts the shards of a window by destination: each sample goes to the one worker that trains on it.

A shard is read once for all workers. Where a sample goes depends on its place in the stream, and that on the
number of samples in every shard of the window. So the shards of a window are read, their samples counted, and
then each shard is cut into one part for each worker.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from capfilt.stages.pairs.order import Window
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.samples import Division, SampleSource


@dataclass(frozen=True, kw_only=True)
class WindowCut:
    """The samples of one window for all workers of a training; picklable, and equal on every worker.

    `cluster.training.feed` calls the methods in reader processes.
    """

    source: SampleSource
    window: Window
    seed: int
    first: int
    """Number in the stream of the sample at offset `skipped` of the window."""
    skipped: int = 0
    """Samples at the beginning of the window that were trained on before."""
    division: Division
    is_kept: bool = False
    """Whether the tables of the shards are kept in memory for the next epochs: all shards are in the
    window."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for windows with equal parts, of all that one training asks for."""
        window = self.window
        return self.source.name, window.epoch, window.number, self.first, self.skipped, self.workers

    @property
    def workers(self) -> int:
        """Number of workers."""
        return self.division.workers

    @property
    def items(self) -> Sequence[ShardRef]:
        """The shards."""
        return self.window.shards

    def item_key(self, item: ShardRef) -> tuple[str, str, int]:
        """Equal for equal tables."""
        return self.source.name, item.source, item.shard

    def read(self, item: ShardRef) -> tuple[pa.Table, int]:
        """The table of a shard, and the bytes that were read for it."""
        return self.source.read(item)

    def count(self, table: pa.Table) -> int:
        """Samples of a table in the epoch."""
        return sum(1 for _ in self.source.unpack([table], self.window.epoch))

    def cut(self, table: pa.Table, number: int, counts: Sequence[int]) -> list[bytes]:
        """The part of each worker of one table: pickled (number in the stream, sample).

        Args:
            table: of shard `number` of the window.
            counts: samples of each shard of the window.
        """
        order = self.window.permute(self.seed, sum(counts))
        offsets = np.empty_like(order)
        offsets[order] = np.arange(len(order))
        before = sum(counts[:number])
        offsets = offsets[before : before + counts[number]]
        samples = self.first + offsets - self.skipped
        destinations = self.division.workers_of(samples)
        parts: list[list[tuple[int, Any]]] = [[] for _ in range(self.workers)]
        unpacked = self.source.unpack([table], self.window.epoch)
        for place, sample, worker in zip(samples.tolist(), unpacked, destinations.tolist(), strict=True):
            if place >= self.first:
                parts[worker].append((place, sample))
        return [pickle.dumps(part, protocol=pickle.HIGHEST_PROTOCOL) for part in parts]


class OpenedWindow(Protocol):
    """The part of one worker of a window that is being read."""

    @property
    def counts(self) -> Sequence[int]:
        """Samples of each shard of the window; waits until they are known."""

    @property
    def read_bytes(self) -> int:
        """Bytes that were read from the run directory for all workers; waits likewise."""

    def parts(self) -> Iterator[bytes]:
        """The worker's part of each shard, once."""


def load_samples(parts: Iterator[bytes]) -> tuple[list[Any], int]:
    """The samples of one worker in a window, in the order of the stream, and the bytes of the parts."""
    numbered: list[tuple[int, Any]] = []
    size = 0
    for part in parts:
        numbered += pickle.loads(part)
        size += len(part)
    numbered.sort(key=lambda entry: entry[0])
    return [sample for _, sample in numbered], size
