"""An endless stream of training pairs, in an order that depends only on the seed.

The shards of an epoch are permuted and cut into windows of a few shards; the pairs of a window are permuted
together. A position is (epoch, window, offset), so that training resumes at the exact sample, and memory
holds the encoded images of one window, however large the corpus is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from capfilt.stages.pairs.draw import DrawConfig, draw_texts
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.texts import PerImage, Sentences


@dataclass(frozen=True)
class Pair:
    """One (image, text) sample."""

    image: bytes
    """Encoded image, shared by all texts of the image."""
    text: str
    image_id: int
    """See `stages.pairs.read.image_id`."""
    key: str


@dataclass
class Position:
    """The next sample: pair `offset` of window `window` of epoch `epoch`."""

    epoch: int = 0
    window: int = 0
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Order and length of a stream."""

    seed: int
    """Determines the order."""
    window_shards: int
    """Shards whose pairs are permuted together; more shuffle better and use more memory."""
    epochs: int | None = None
    """Epochs after which the stream ends; None: never."""
    lookahead: int = 8
    """Windows that are read by one call of the reader."""
    per_image: PerImage = "all"
    """See `stages.pairs.texts.TextsConfig`."""
    sentences: Sentences = "whole"
    """See `stages.pairs.texts.TextsConfig`."""

    @property
    def draw(self) -> DrawConfig:
        """What is drawn for each epoch."""
        return DrawConfig(seed=self.seed, per_image=self.per_image, sentences=self.sentences)


ReadBlocks = Callable[[Sequence[dict[str, Any]]], Iterable[pa.Table]]
"""Reads one table of pairs per shard, in the order of the given shards; the engine reads ahead in other
processes."""

Unpack = Callable[[Iterable[pa.Table], int], Iterator[Any]]
"""The samples of tables in an epoch, in their order."""

Window = tuple[int, int, list[ShardRef]]
"""Epoch, number of the window in it, and its shards."""


class PairStream:
    """Samples of the training shards, epoch after epoch.

    A corpus that fits into one window is read once and kept in memory, which is the memory of a window.

    Args:
        shards: the training shards, in any order.
        read: reads tables of pairs (`stages.pairs.read.PAIRS_SCHEMA`).
        config: order and length.
        position: the first sample. The attribute `position` is the sample that follows the last one yielded.
        unpack: the samples of tables; None: a `Pair` for each text of an image.
    """

    def __init__(
        self,
        shards: Sequence[ShardRef],
        read: ReadBlocks,
        config: StreamConfig,
        position: Position | None = None,
        unpack: Unpack | None = None,
    ) -> None:
        assert shards, "training needs at least one shard"
        self.shards = sorted(shards, key=lambda ref: (ref.source, ref.shard))
        self.read, self.config = read, config
        self.position = position or Position()
        self.unpack: Unpack = unpack or partial(_iter_pairs, draw=config.draw)
        self._cached_tables: dict[ShardRef, pa.Table] = {}

    def __iter__(self) -> Iterator[Any]:
        skipped = self.position.offset
        for epoch, window, tables in self._read_windows():
            pairs = list(self.unpack(tables, epoch))
            order = self._rng(epoch, window).permutation(len(pairs))
            for offset in range(skipped, len(pairs)):
                # Set before the sample is yielded, so that a checkpoint made after it resumes with the next
                # one.
                self.position = Position(epoch, window, offset + 1)
                yield pairs[order[offset]]
            skipped = 0

    def _read_windows(self) -> Iterator[tuple[int, int, list[pa.Table]]]:
        """(epoch, window, tables) from the position on. One call of `read` covers many windows, also of later
        epochs, because a call is expensive for small corpora."""
        windows = self._plan_windows()
        if len(self.shards) <= self.config.window_shards:
            if not self._cached_tables:
                tables = self.read([asdict(ref) for ref in self.shards])
                self._cached_tables = dict(zip(self.shards, tables, strict=True))
            for epoch, window, _ in windows:
                used = [ref for ref in self.shards if ref.is_in_epoch(epoch)]
                yield epoch, window, [self._cached_tables[ref] for ref in used]
            return
        while ahead := list(islice(windows, self.config.lookahead)):
            blocks = iter(self.read([asdict(ref) for _, _, refs in ahead for ref in refs]))
            for epoch, window, refs in ahead:
                yield epoch, window, [next(blocks) for _ in refs]

    def _plan_windows(self) -> Iterator[Window]:
        """The windows from the position on."""
        size, epochs = self.config.window_shards, self.config.epochs
        epoch, first = self.position.epoch, self.position.window
        while epochs is None or epoch < epochs:
            shards = [ref for ref in self.shards if ref.is_in_epoch(epoch)]
            order = self._rng(epoch, -1).permutation(len(shards))
            count = -(-len(order) // size)
            for window in range(first, count):
                chosen = order[window * size : (window + 1) * size]
                yield epoch, window, [shards[i] for i in chosen]
            epoch, first = epoch + 1, 0

    def _rng(self, epoch: int, window: int) -> np.random.Generator:
        """Generator of a window's order, or of the epoch's order of shards (window -1)."""
        return np.random.default_rng([self.config.seed, epoch, window + 1])


def _iter_pairs(tables: Iterable[pa.Table], epoch: int, draw: DrawConfig) -> Iterator[Pair]:
    for table in tables:
        for row, text in draw_texts(table.to_pylist(), epoch, draw):
            yield Pair(row["image"], text, row["image_id"], row["key"])
