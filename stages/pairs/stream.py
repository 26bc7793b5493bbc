"""NEW FILE."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from capfilt.stages.pairs.parts import ShardRef


@dataclass(frozen=True)
class Pair:
    """One (image, text) sample; `image` is encoded bytes, shared by all texts of the image."""

    image: bytes
    text: str
    image_id: int
    key: str


@dataclass
class Position:
    """The next sample: pair `offset` of window `window` of epoch `epoch`."""

    epoch: int = 0
    window: int = 0
    offset: int = 0


ReadBlocks = Callable[[Sequence[dict[str, Any]]], Iterable[pa.Table]]
"""Tables of the given shard items, in order; the engine reads them ahead in other processes."""


class PairStream:
    """Endless samples from `shards`, epoch after epoch, from `position` on.

    Args:
        shards: the training shards, each in the epochs it trains in; their order does not matter.
        read: turns shard items into tables of pairs, in order.
        seed: fixes the order.
        window_shards: shards whose pairs are permuted together; the shuffle's reach and its memory.
        epochs: stop after so many; None = endless.
        lookahead: windows handed to one `read` call.

    A corpus that fits into one window is read once and kept: its memory is that of a window anyway.
    """

    def __init__(
        self,
        shards: Sequence[ShardRef],
        read: ReadBlocks,
        *,
        seed: int,
        window_shards: int = 16,
        position: Position | None = None,
        epochs: int | None = None,
        lookahead: int = 8,
    ) -> None:
        assert shards, "training needs at least one shard"
        self.shards = sorted(shards, key=lambda ref: (ref.source, ref.shard))
        self.read, self.seed, self.window_shards = read, seed, window_shards
        self.position = position or Position()
        self.epochs, self.lookahead = epochs, lookahead
        self._whole: dict[ShardRef, pa.Table] = {}

    def __iter__(self) -> Iterator[Pair]:
        skip = self.position.offset
        for epoch, window, blocks in self._windows():
            pairs = list(_pairs(blocks))
            order = self._rng(epoch, window).permutation(len(pairs))
            for offset in range(skip, len(pairs)):
                # Set before the sample is handed out: whoever saves now resumes after it.
                self.position = Position(epoch, window, offset + 1)
                yield pairs[order[offset]]
            skip = 0

    def _windows(self) -> Iterator[tuple[int, int, list[pa.Table]]]:
        """(epoch, window, tables) from the position on; many windows, also of later epochs, per read call, so
        that starting a read costs little for small corpora."""
        plan = self._plan()
        if len(self.shards) <= self.window_shards:
            if not self._whole:
                tables = self.read([asdict(ref) for ref in self.shards])
                self._whole = dict(zip(self.shards, tables, strict=True))
            for epoch, window, _ in plan:
                yield epoch, window, [self._whole[ref] for ref in self.shards if ref.trains_in(epoch)]
            return
        while ahead := [w for _, w in zip(range(self.lookahead), plan, strict=False)]:
            tables = iter(self.read([asdict(ref) for _, _, refs in ahead for ref in refs]))
            for epoch, window, refs in ahead:
                yield epoch, window, [next(tables) for _ in refs]

    def _plan(self) -> Iterator[tuple[int, int, list[ShardRef]]]:
        epoch, first = self.position.epoch, self.position.window
        while self.epochs is None or epoch < self.epochs:
            shards = [ref for ref in self.shards if ref.trains_in(epoch)]
            order = self._rng(epoch, -1).permutation(len(shards))
            count = -(-len(order) // self.window_shards)
            for window in range(first, count):
                chosen = order[window * self.window_shards : (window + 1) * self.window_shards]
                yield epoch, window, [shards[i] for i in chosen]
            epoch, first = epoch + 1, 0

    def _rng(self, epoch: int, window: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, window + 1])


def _pairs(blocks: Iterable[pa.Table]) -> Iterator[Pair]:
    for block in blocks:
        for row in block.to_pylist():
            for text in row["texts"]:
                yield Pair(row["image"], text, row["image_id"], row["key"])
