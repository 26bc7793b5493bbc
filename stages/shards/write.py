"""Shard → image tar, Parquet and the commit record that decides (docs/design.md).

The record is created exclusively and last. Until it exists the shard is processed again from the start; once it
exists the shard is never touched, not even by a late attempt.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA, SCHEMA_VERSION, table_of
from capfilt.stages.shards.commit import (
    commit,
    corpus_record,
    count_rows,
    count_verdicts,
    find_commit,
    stage_seconds,
)
from capfilt.stages.shards.pack import Pack, corpus_tar
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import ShardFiles, candidates_shard, corpus_shard
from capfilt.stages.storage.store import Store

WRITTEN_SCHEMA = pa.schema([("source", pa.string()), ("shard", pa.int64()), ("records", pa.string())])
"""What the writer returns for a shard: its commit records as JSON, {"corpus": …, "candidates": …}."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is written beside every candidate of a bootstrap."""

    captioner: str
    filter: str
    """Digests of the two checkpoints (first 16 hex digits of their sha256)."""
    top_p: float
    top_k: int
    repetition_penalty: float
    threshold: float


@dataclass(frozen=True, kw_only=True)
class WriteConfig:
    """What the writer makes of a shard."""

    run_dir: Store
    """The run directory."""
    corpus_fingerprints: dict[str, str] = field(default_factory=dict)
    """Fingerprints of the sources whose shards' images and rows are written to the corpus, unless their record
    stands already. Needs the image bytes: see `keep_images` of the filter stage."""
    round: int = 0
    """Round of the candidates."""
    round_fingerprint: str | None = None
    """Set: write the shard's candidates."""
    provenance: Provenance | None = None


class OtherImages(RuntimeError):
    """The corpus holds other images of a shard than those that were judged."""


class Write:
    """Ends the rows of a shard: files first, the commit record last. The only stage that ends rows.

    What it does row by row is `Pack`; what is left, `shardwise`, looks into none.
    """

    def __init__(self, config: WriteConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One shard in; one row (`WRITTEN_SCHEMA`) with its commit records out."""
        return self.shardwise(Pack()(batch))

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """As the call, for rows that are packed."""
        source, shard = batch["source"][0].as_py(), batch["shard"][0].as_py()
        records: dict[str, CommitRecord] = {}
        if source in self.config.corpus_fingerprints:
            records["corpus"] = self._write_corpus(batch, corpus_shard(source, shard))
        if self.config.round_fingerprint is not None:
            records["candidates"] = self._write_candidates(batch, source, shard)
        written = msgspec.json.encode(records).decode()
        return table_of([{"source": source, "shard": shard, "records": written}], WRITTEN_SCHEMA)

    def _write_corpus(self, batch: pa.Table, place: ShardFiles) -> CommitRecord:
        run_dir = self.config.run_dir
        committed = find_commit(run_dir, place.record)
        if committed is None:
            files = [run_dir.put(f"{place.stem}.{suffix}", data) for suffix, data in corpus_files(batch)]
            fingerprint = self.config.corpus_fingerprints[batch["source"][0].as_py()]
            record = corpus_record(batch, fingerprint, files)
            committed = commit(run_dir, place.record, record)
            if committed is record:
                return record
        if self.config.round_fingerprint is not None:
            check_images(run_dir, place, batch)
        return committed

    def _write_candidates(self, batch: pa.Table, source: str, shard: int) -> CommitRecord:
        run_dir, fingerprint = self.config.run_dir, self.config.round_fingerprint
        assert fingerprint is not None, "candidates are written with the fingerprint of their node"
        place = candidates_shard(self.config.round, source, shard)
        if (committed := find_commit(run_dir, place.record)) is not None:
            return committed
        rows = self._candidate_rows(batch)
        file = run_dir.put(place.parquet, parquet_bytes(table_of(rows, CANDIDATE_SCHEMA)))
        record = CandidatesRecord(
            source=source,
            shard=shard,
            round=self.config.round,
            fingerprint=fingerprint,
            files=(file,),
            rows=count_rows(batch),
            candidates=count_verdicts(rows),
            seconds=stage_seconds(batch),
        )
        return commit(run_dir, place.record, record)

    def _candidate_rows(self, batch: pa.Table) -> list[dict[str, Any]]:
        made = self.config.provenance
        assert made is not None, "candidates are written with their provenance"
        of_image = ("key", "source", "shard", "url", "width", "height", "sha256", "phash")
        rows = []
        for row in batch.select([*of_image, "status", "candidates"]).to_pylist():
            if row["status"] != SUCCESS:  # judged, and then it could not be packed
                continue
            image = {name: row[name] for name in of_image}
            for candidate in row["candidates"]:
                sampled = candidate["origin"] == "synthetic"
                rows.append(
                    image
                    | candidate
                    | {
                        "round": self.config.round,
                        "threshold": made.threshold,
                        "captioner": made.captioner if sampled else None,
                        "filter": made.filter,
                        "top_p": made.top_p if sampled else None,
                        "top_k": made.top_k if sampled else None,
                        "repetition_penalty": made.repetition_penalty if sampled else None,
                        "version": SCHEMA_VERSION,
                    }
                )
        return rows


def corpus_files(batch: pa.Table) -> Iterator[tuple[str, bytes]]:
    """(name's ending, content) of a corpus shard's files, in the order in which they are written.

    Args:
        batch: rows that `Pack` has seen.
    """
    yield "tar", corpus_tar(batch)
    yield "parquet", parquet_bytes(batch.select(CORPUS_SCHEMA.names).cast(CORPUS_SCHEMA))


def check_images(run_dir: Store, place: ShardFiles, batch: pa.Table) -> None:
    """Check that the corpus holds the images of these rows.

    Two attempts may process the same shard, for example when a machine loses its cluster but not the store. The slower
    one may download other images, and no candidates may be written for images that were not committed.

    Raises:
        OtherImages: the corpus holds others; the next attempt reads the shard from the corpus.
    """
    columns = ["key", "sha256"]
    stored = pq.read_table(io.BytesIO(run_dir.read(place.parquet)), columns=columns)
    if stored.to_pylist() != batch.select(columns).to_pylist():
        raise OtherImages(
            f"{run_dir.address(place.stem)}: another attempt has stored other images meanwhile; "
            "the next attempt reads the shard from the corpus"
        )


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
