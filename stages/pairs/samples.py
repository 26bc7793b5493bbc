"""What a training reads of a shard, and how the samples of all shards are divided among its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from capfilt.stages.pairs.counting import ReadCounter
from capfilt.stages.pairs.draw import DrawConfig, draw_texts
from capfilt.stages.pairs.order import Numbers
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, ReadPairs
from capfilt.stages.storage.store import Store


@dataclass(frozen=True)
class Pair:
    """One (image, text) sample."""

    image: bytes
    """Encoded image, shared by all texts of the image."""
    text: str
    image_id: int
    """See `stages.pairs.read.image_id`."""
    key: str


Unpack = Callable[[Iterable[pa.Table], int], Iterator[Any]]
"""The samples of tables in an epoch, in their order."""


@dataclass(frozen=True, kw_only=True)
class SampleSource:
    """Where the samples of a training come from; picklable."""

    name: str
    """Tells the sources of one training apart."""
    run_dir: Store
    make_reader: Callable[[Store], Callable[[pa.Table], pa.Table]]
    """Builds what turns {"source", "shard", …} into the table of a shard, from the run directory."""
    unpack: Unpack
    """Makes the samples of a table."""

    def read(self, ref: ShardRef) -> tuple[pa.Table, int]:
        """The table of a shard, and the bytes that were read from the run directory for it."""
        counter = ReadCounter(self.run_dir)
        table = self.make_reader(counter.store)(pa.Table.from_pylist([asdict(ref)]))
        return table, counter.bytes


def pair_source(name: str, config: PairsConfig, draw: DrawConfig) -> SampleSource:
    """The pairs of images and texts.

    Args:
        config: which texts are read; its run directory is that of the source.
        draw: which of them occur in an epoch.
    """
    return SampleSource(
        name=name, run_dir=config.run_dir, make_reader=_PairReader(config), unpack=PairUnpacking(draw)
    )


@dataclass(frozen=True)
class PairUnpacking:
    """Makes a `Pair` of each text that occurs in an epoch."""

    draw: DrawConfig

    def __call__(self, tables: Iterable[pa.Table], epoch: int) -> Iterator[Pair]:
        for table in tables:
            for row, text in draw_texts(table.to_pylist(), epoch, self.draw):
                yield Pair(row["image"], text, row["image_id"], row["key"])


@dataclass(frozen=True)
class _PairReader:
    config: PairsConfig

    def __call__(self, run_dir: Store) -> ReadPairs:
        return ReadPairs(replace(self.config, run_dir=run_dir))


@dataclass(frozen=True, kw_only=True)
class Division:
    """How the samples of a stream are divided among the workers of a training.

    Consecutive samples make up a global batch. It is cut into pieces, and each piece into contiguous slices,
    one per worker: the pieces of n workers together are those of one worker, so that negatives, which are
    keyed by row, do not depend on the number of workers.
    """

    batch_size: int
    """Samples of a global batch; a multiple of `pieces` x `workers`."""
    pieces: int = 1
    """Pieces of gradient accumulation."""
    workers: int = 1

    @property
    def slice_size(self) -> int:
        """Samples of one worker in one piece."""
        return self.batch_size // (self.pieces * self.workers)

    @property
    def own(self) -> int:
        """Samples of one worker in a global batch."""
        return self.batch_size // self.workers

    def workers_of(self, samples: Numbers) -> Numbers:
        """The worker that trains on each sample, by the numbers of the samples in the stream."""
        return samples % self.batch_size // self.slice_size % self.workers
