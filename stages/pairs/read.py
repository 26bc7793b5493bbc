"""Corpus + candidates → training pairs, in an order that depends on the seed alone.

The order is a permutation of the epoch's shards, cut into windows of a few shards; the pairs of a window are
permuted as a whole. A position in it is (epoch, window, offset), so that training resumes at the exact sample,
and memory holds one window of encoded images however large the corpus is. A source may be dealt into parts, of
which each epoch has one: the paper trains on a fifth of LAION per epoch (section 4.1).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.bootstrap.duplicates import Copies
from capfilt.stages.shards.read import read_corpus_shard
from capfilt.stages.storage.store import Store

PAIRS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("image_id", pa.int64()),
        ("texts", pa.list_(pa.string())),
        ("image", pa.large_binary()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which texts an image is trained with."""

    run: Store
    """The run directory."""
    round: int = 0
    """0: web images come with their web texts, all of them. r > 0: with what round r's filter kept, web and
    synthetic alike. Human images always come with their human texts."""
    without_surplus: bool = False
    """Leave out web images that are surplus copies (`stages.bootstrap.duplicates`). In rounds after 0 the verdicts do that."""


@dataclass(frozen=True)
class ShardRef:
    """One corpus shard as training input."""

    source: str
    shard: int
    kind: Literal["human", "web"]
    part: int = 0
    parts: int = 1
    """It trains in every epoch e with e % parts == part; by default in all of them."""

    def trains_in(self, epoch: int) -> bool:
        """Whether epoch `epoch` (0 is the first) has this shard."""
        return epoch % self.parts == self.part


class PartsError(ValueError):
    """A source that cannot be cut into as many parts as its config asks for."""


def check_parts(source: str, parts: int, shards: int) -> None:
    """Every part of a source has a shard.

    Raises:
        PartsError: more parts than shards; the line names the key and both ways out.
    """
    if parts > max(shards, 1):
        raise PartsError(
            f"sources.{source}.parts: {parts} parts of {shards} shards cannot be: give {max(shards, 1)} at most, "
            f"or smaller shards (sources.{source}.rows.shard_size) in another run directory"
        )


def deal(refs: Iterable[ShardRef], parts: int) -> list[ShardRef]:
    """One source's shards, dealt in turn to `parts` parts, so that these differ by one shard at the most.

    Raises:
        PartsError: more parts than shards.
    """
    ordered = sorted(refs, key=lambda ref: ref.shard)
    if ordered:
        check_parts(ordered[0].source, parts, len(ordered))
    return [replace(ref, part=turn % parts, parts=parts) for turn, ref in enumerate(ordered)]


OF_A_PAIR = ("key", "source", "url", "texts", "sha256", "phash", "status")
"""Columns of a corpus shard that decide about a pair."""


class ReadPairs:
    """Turns {"source", "shard", "kind"} into rows (`PAIRS_SCHEMA`), one per image that has a text."""

    def __init__(self, config: PairsConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.concat_tables([self.read(ShardRef(**item)) for item in batch.to_pylist()])

    def read(self, ref: ShardRef) -> pa.Table:
        rows = read_corpus_shard(self.config.run / f"corpus/{ref.source}", ref.shard)
        kept = self._kept_texts(ref) if ref.kind == "web" and self.config.round > 0 else None
        copies = self._copies if ref.kind == "web" and self.config.without_surplus else None
        found = []
        for row in rows.select([*OF_A_PAIR, "image"]).to_pylist():
            texts = row["texts"] if kept is None else kept.get(row["key"], [])
            texts = [text for text in texts or [] if text.strip()]
            if row["status"] == "success" and texts and not (copies is not None and copies.is_surplus(row)):
                identity = row["sha256"] or f"{row['source']}/{row['key']}"
                row = {name: row[name] for name in ("key", "source", "image")}
                found.append(row | {"texts": texts, "image_id": image_id(identity)})
        return pa.Table.from_pylist(found, schema=PAIRS_SCHEMA)

    @cached_property
    def _copies(self) -> Copies:
        return Copies.read(self.config.run)

    def _kept_texts(self, ref: ShardRef) -> dict[str, list[str]]:
        store = self.config.run / f"rounds/{self.config.round}/{ref.source}"
        table = pq.read_table(
            io.BytesIO(store.read(f"{ref.shard:06d}.parquet")), columns=["key", "text", "kept"]
        )
        texts: dict[str, list[str]] = {}
        for row in table.to_pylist():
            if row["kept"]:
                texts.setdefault(row["key"], []).append(row["text"])
        return texts


def image_id(identity: str) -> int:
    """Id of a picture for the contrastive losses: equal bytes (sha256) are one image wherever they came from."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


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
