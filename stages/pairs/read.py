"""Corpus + candidates → training pairs, in an order that depends on the seed alone.

The order is a permutation of the epoch's shards, cut into windows of a few shards; the pairs of a window are
permuted as a whole. A position in it is (epoch, window, offset), so that training resumes at the exact sample,
and memory holds one window of encoded images however large the corpus is. A source may be dealt into parts, of
which each epoch has one: the paper trains on a fifth of LAION per epoch (section 4.1).
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.bootstrap.duplicates import Copies
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.shards.read import read_corpus_shard
from capfilt.stages.storage.layout import candidates_shard, corpus_shard
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

    run_dir: Store
    """The run directory."""
    round: int = 0
    """0: web images come with their web texts, all of them. r > 0: with what round r's filter kept, web and
    synthetic alike. Human images always come with their human texts."""
    without_surplus: bool = False
    """Leave out web images that are surplus copies (`stages.bootstrap.duplicates`). In rounds after 0 the verdicts do that."""


OF_A_PAIR = ("key", "source", "url", "texts", "sha256", "phash", "status")
"""Columns of a corpus shard that decide about a pair."""


class ReadPairs:
    """Turns {"source", "shard", "kind"} into rows (`PAIRS_SCHEMA`), one per image that has a text."""

    def __init__(self, config: PairsConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.concat_tables([self.read(ShardRef(**item)) for item in batch.to_pylist()])

    def read(self, ref: ShardRef) -> pa.Table:
        rows = read_corpus_shard(self.config.run_dir, corpus_shard(ref.source, ref.shard))
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
        return Copies.read(self.config.run_dir)

    def _kept_texts(self, ref: ShardRef) -> dict[str, list[str]]:
        place = candidates_shard(self.config.round, ref.source, ref.shard)
        data = self.config.run_dir.read(place.parquet)
        table = pq.read_table(io.BytesIO(data), columns=["key", "text", "kept"])
        texts: dict[str, list[str]] = {}
        for row in table.to_pylist():
            if row["kept"]:
                texts.setdefault(row["key"], []).append(row["text"])
        return texts


def image_id(identity: str) -> int:
    """Id of a picture for the contrastive losses: equal bytes (sha256) are one image wherever they came from."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
