"""Writes a shard: image tar, Parquet files and the commit records (docs/design.md).

A record is created exclusively and last. Until it exists, the shard is processed again from the start; once
it exists, the shard is never changed, not even by a late attempt (`stages.shards.attempts`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.rows import (
    CANDIDATE_SCHEMA,
    LANGUAGE,
    SCHEMA_VERSION,
    append_carried,
    corpus_table,
    table_of,
)
from capfilt.stages.shards.attempts import listed_file, write_file
from capfilt.stages.shards.commit import (
    commit,
    count_rows,
    count_verdicts,
    find_commit,
    make_corpus_record,
    stage_seconds,
)
from capfilt.stages.shards.pack import Pack, encode_tar
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import ShardFiles, candidates_shard, corpus_shard
from capfilt.stages.storage.store import Store

IMAGE_COLUMNS = ("key", "source", "shard", "url", "width", "height", "sha256", "phash")
"""Columns that a candidate has from its image."""
WRITTEN_SCHEMA = pa.schema([("source", pa.string()), ("shard", pa.int64()), ("records", pa.string())])
"""What the writer returns for a shard; `records` is JSON: {"corpus": commit record, "candidates": commit
record}."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Models and settings of a bootstrap, which are written to every candidate."""

    captioner: str | None
    filter: str
    """Digests of the two models (`stages.bootstrap.model_source.ModelSource.digest`); None without a
    captioner."""
    top_p: float
    top_k: int
    repetition_penalty: float
    thresholds: Mapping[str, float]
    """The filter's threshold of each origin."""
    language: bool = False
    """Whether the candidates have the column `language`."""
    other_captioners: tuple[str, ...] = ()
    """Digests of the further captioners of an ensemble, whose texts name them."""


@dataclass(frozen=True, kw_only=True)
class WriteConfig:
    """What is written for a shard."""

    run_dir: Store
    """The run directory."""
    corpus_fingerprints: dict[str, str] = field(default_factory=dict)
    """{source: fingerprint} of the sources whose images and rows are written to the corpus, unless their
    record exists already. Requires the images: see `keep_images` of the filter stage."""
    round: int = 0
    """Round of the candidates."""
    round_fingerprint: str | None = None
    """Fingerprint of the candidates; None: write no candidates."""
    provenance: Provenance | None = None
    """Required for candidates."""


class DifferentImages(RuntimeError):
    """The corpus holds other images of a shard than those that were judged."""


class Write:
    """Writes the files of a shard, then its commit record.

    `Pack` handles each row separately; `shardwise` does the rest without decoding any row.
    """

    def __init__(self, config: WriteConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row (`WRITTEN_SCHEMA`) with the commit records of one shard."""
        return self.shardwise(Pack()(batch))

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """Like `__call__`, for rows that `Pack` has completed."""
        source, shard = batch["source"][0].as_py(), batch["shard"][0].as_py()
        records: dict[str, CommitRecord] = {}
        if source in self.config.corpus_fingerprints:
            records["corpus"] = self._write_corpus(batch, corpus_shard(source, shard))
        if self.config.round_fingerprint is not None:
            records["candidates"] = self._write_candidates(batch, source, shard)
        encoded = msgspec.json.encode(records).decode()
        return table_of([{"source": source, "shard": shard, "records": encoded}], WRITTEN_SCHEMA)

    def _write_corpus(self, batch: pa.Table, paths: ShardFiles) -> CommitRecord:
        run_dir = self.config.run_dir
        committed = find_commit(run_dir, paths.record)
        if committed is None:
            files = [write_file(run_dir, paths, suffix, data) for suffix, data in encode_corpus_files(batch)]
            fingerprint = self.config.corpus_fingerprints[batch["source"][0].as_py()]
            record = make_corpus_record(batch, fingerprint, files)
            committed = commit(run_dir, paths.record, record)
            if committed is record:
                return record
        if self.config.round_fingerprint is not None:
            check_images(run_dir, paths, committed, batch)
        return committed

    def _write_candidates(self, batch: pa.Table, source: str, shard: int) -> CommitRecord:
        run_dir, fingerprint = self.config.run_dir, self.config.round_fingerprint
        assert fingerprint is not None, "candidates are written with the fingerprint of their node"
        paths = candidates_shard(self.config.round, source, shard)
        if (committed := find_commit(run_dir, paths.record)) is not None:
            return committed
        rows, images = self._candidate_rows(batch)
        table = append_carried(table_of(rows, self._schema), batch, pa.array(images, pa.int64()))
        file = write_file(run_dir, paths, "parquet", encode_parquet(table))
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
        return commit(run_dir, paths.record, record)

    @property
    def _schema(self) -> pa.Schema:
        """Columns of the candidates without those that are carried."""
        provenance = self.config.provenance
        has_language = provenance is not None and provenance.language
        return CANDIDATE_SCHEMA.append(LANGUAGE) if has_language else CANDIDATE_SCHEMA

    def _candidate_rows(self, batch: pa.Table) -> tuple[list[dict[str, Any]], list[int]]:
        """The candidates, and the number of the row that each belongs to."""
        provenance = self.config.provenance
        assert provenance is not None, "candidates are written with their provenance"
        common = {
            "round": self.config.round,
            "filter": provenance.filter,
            "version": SCHEMA_VERSION,
        }
        own_captioners = (provenance.captioner, *provenance.other_captioners)
        sampling = {
            "top_p": provenance.top_p,
            "top_k": provenance.top_k,
            "repetition_penalty": provenance.repetition_penalty,
        }
        rows, images = [], []
        for number, row in enumerate(batch.select([*IMAGE_COLUMNS, "status", "candidates"]).to_pylist()):
            if row["status"] != SUCCESS:  # failed in `Pack`, after it was judged
                continue
            image = {name: row[name] for name in IMAGE_COLUMNS}
            for candidate in row["candidates"]:
                made = image | candidate | common
                made["threshold"] = provenance.thresholds[candidate["origin"]]
                captioner = candidate["captioner"] or provenance.captioner
                if candidate["origin"] == "synthetic" and captioner in own_captioners:
                    made |= sampling | {"captioner": captioner}
                if not provenance.language:
                    made.pop(LANGUAGE.name, None)
                rows.append(made)
                images.append(number)
        return rows, images


def encode_corpus_files(batch: pa.Table) -> Iterator[tuple[str, bytes]]:
    """(suffix, content) of the files of a corpus shard, in the order in which they are written.

    Args:
        batch: rows that `Pack` has completed.
    """
    yield "tar", encode_tar(batch)
    yield "parquet", encode_parquet(corpus_table(batch))


def check_images(run_dir: Store, paths: ShardFiles, record: CommitRecord, batch: pa.Table) -> None:
    """Check that the corpus holds the images of these rows.

    Two attempts may process the same shard, for example if a machine loses its cluster but not the store. The
    slower attempt may download other images, and candidates must not be written for images that were not
    committed.

    Args:
        paths: files of the committed corpus shard.
        record: its commit record.

    Raises:
        DifferentImages: the corpus holds other images; the next attempt reads the shard from the corpus.
    """
    columns = ["key", "sha256"]
    stored = pq.read_table(io.BytesIO(run_dir.read(listed_file(paths, record, "parquet"))), columns=columns)
    if stored.to_pylist() != batch.select(columns).to_pylist():
        raise DifferentImages(
            f"{run_dir.address(paths.stem)}: another attempt has committed other images; "
            "the next attempt reads the shard from the corpus"
        )


def encode_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
