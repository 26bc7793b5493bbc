"""Reads the training pairs of a corpus shard: its images with human, web or kept texts."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.bootstrap.duplicates import SurplusCopies
from capfilt.stages.pairs.hold_out import is_held_out
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.texts import PerImage, weigh_texts
from capfilt.stages.shards.commit import read_commit
from capfilt.stages.shards.read import read_corpus_shard
from capfilt.stages.shards.records import CandidatesRecord
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import DEFAULT_VERDICTS, candidates_shard, corpus_shard
from capfilt.stages.storage.store import Store
from capfilt.stages.verdicts.sets import read_kept

PAIRS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("image_id", pa.int64()),
        ("texts", pa.list_(pa.string())),
        ("weights", pa.list_(pa.float64())),
        ("image", pa.large_binary()),
    ]
)
"""One row per image that has a text. `weights`: how often each text occurs in an epoch; null if once."""
PAIR_COLUMNS = ("key", "source", "url", "texts", "sha256", "phash", "status", "image")
"""Columns of a corpus shard that pairs are made from."""


Verdicts = Literal["kept", "kept_web", "all", "itc"]
"""Which candidates of a round are trained on: those that the filter kept, the web texts among them, all that
it judged, whatever it decided, or the judged web texts with at least a given ITC similarity."""

Part = Literal["training", "validation"]
"""Of the human images: those that a finetuning trains on, or those that it is validated on."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """With which texts an image is trained."""

    run_dir: Store
    """The run directory."""
    round: int = 0
    """0: web images with all their web texts. r > 0: web images with the web and synthetic texts of round r.
    Human images always with their human texts."""
    verdicts: Verdicts = "kept"
    """Which candidates of round r > 0."""
    verdict_set: str = DEFAULT_VERDICTS
    """The named set of verdicts that says which are kept (`stages.verdicts`)."""
    min_itc: float = -1.0
    """Least ITC similarity for the verdicts "itc"."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of origins (human, web or synthetic) other than 1; `per_image` says what they mean."""
    per_image: PerImage = "all"
    """`all`: the weight is how often a pair of the origin occurs in an epoch, on average. `one`: it is the
    share of the origin among the draws of one text for each image (`stages.pairs.texts.weigh_texts`)."""
    without_surplus: bool = False
    """Leave out web images that are surplus copies (`stages.bootstrap.duplicates`). For rounds after 0 their
    verdicts do that."""
    hold_out: float = 0.0
    """Leave out this share of the web images (`stages.pairs.hold_out`)."""
    validation: float = 0.0
    """Leave out this share of the human images, likewise."""
    part: Part = "training"
    """`validation`: of the human images only those that are left out."""


class ReadPairs:
    """Turns {"source", "shard", "kind"} into the pairs of these shards (`PAIRS_SCHEMA`)."""

    def __init__(self, config: PairsConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.concat_tables([self.read(ShardRef(**item)) for item in batch.to_pylist()])

    def read(self, ref: ShardRef) -> pa.Table:
        """The pairs of one shard."""
        rows = read_corpus_shard(self.config.run_dir, corpus_shard(ref.source, ref.shard))
        kept = self._read_candidates(ref) if ref.kind == "web" and self.config.round > 0 else None
        surplus = self._surplus_copies if ref.kind == "web" and self.config.without_surplus else None
        share = self.config.hold_out if ref.kind == "web" else self.config.validation
        is_read = self.config.part == "validation"  # of a row that is held out
        pairs = []
        for row in rows.select(PAIR_COLUMNS).to_pylist():
            own: list[tuple[str, str]] = [(ref.kind, text) for text in row["texts"] or []]
            chosen = own if kept is None else kept.get(row["key"], [])
            texts = [(origin, text) for origin, text in chosen if text.strip()]
            is_used = row["status"] == SUCCESS and not (surplus is not None and surplus.contains(row))
            is_used = is_used and is_held_out(row["source"], row["key"], share) == is_read
            if texts and is_used:
                identity = row["sha256"] or f"{row['source']}/{row['key']}"
                image = {name: row[name] for name in ("key", "source", "image")}
                texts_of = {"texts": [text for _, text in texts], "weights": self._weights(texts)}
                pairs.append(image | texts_of | {"image_id": image_id(identity)})
        return pa.Table.from_pylist(pairs, schema=PAIRS_SCHEMA)

    @cached_property
    def _surplus_copies(self) -> SurplusCopies:
        return SurplusCopies.read(self.config.run_dir)

    def _weights(self, texts: Sequence[tuple[str, str]]) -> list[float] | None:
        """How often each (origin, text) occurs in an epoch; None if all occur once."""
        weights, per_image = self.config.weights, self.config.per_image
        if not weights and per_image == "all":
            return None
        return weigh_texts([origin for origin, _ in texts], weights, per_image)

    def _read_candidates(self, ref: ShardRef) -> dict[str, list[tuple[str, str]]]:
        """{key: (origin, text) of the candidates that are trained on}."""
        paths = candidates_shard(self.config.round, ref.source, ref.shard)
        data = self.config.run_dir.read(paths.parquet)
        columns = ["key", "text", "kept", "origin", "itc_sim"]
        table = pq.read_table(io.BytesIO(data), columns=columns)
        if self.config.verdict_set != DEFAULT_VERDICTS:
            record = read_commit(self.config.run_dir, paths.record)
            assert isinstance(record, CandidatesRecord), "the folder holds candidates"
            kept = read_kept(self.config.run_dir, self.config.verdict_set, record, table)
            table = table.set_column(table.column_names.index("kept"), "kept", kept)
        texts: dict[str, list[tuple[str, str]]] = {}
        for row in table.to_pylist():
            if self._is_chosen(row):
                texts.setdefault(row["key"], []).append((row["origin"], row["text"]))
        return texts

    def _is_chosen(self, candidate: dict[str, Any]) -> bool:
        match self.config.verdicts:
            case "kept":
                return bool(candidate["kept"])
            case "kept_web":
                return bool(candidate["kept"]) and candidate["origin"] == "web"
            case "all":
                return candidate["kept"] is not None
            case "itc":
                is_judged = candidate["kept"] is not None and candidate["origin"] == "web"
                return is_judged and candidate["itc_sim"] >= self.config.min_itc


def image_id(identity: str) -> int:
    """Id of an image for the contrastive losses, 0 to 2^63 - 1; images with equal bytes have one id.

    Args:
        identity: sha256 of the image's bytes, or another name of the image.
    """
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
