"""One slice of a manifest, or one shard of the corpus, as rows. The only stage that makes rows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.manifest.index import read_slice
from capfilt.stages.rows import CORPUS_SCHEMA, ROW_SCHEMA, row_key, table_of, with_column
from capfilt.stages.shards.tars import SAMPLE, parse_sidecars, read_tar_images, tar_samples
from capfilt.stages.status import PENDING
from capfilt.stages.storage.layout import STOP_FILE, ShardFiles, corpus_shard, index_folder
from capfilt.stages.storage.store import Store

PACKED_SCHEMA = ROW_SCHEMA.append(pa.field("sample", SAMPLE))
"""Rows before anything in them was read; `sample` is null for those that come from no tar."""


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """Where the run lives."""

    run_dir: Store
    """The run directory."""
    tar_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """fsspec options for the image tars of each source: those of its manifest."""
    images: bool = True
    """Read the image bytes of corpus shards too; without them only the rows come."""


class Read:
    """Turns {"source", "shard"} into the rows of that shard.

    A shard whose corpus record stands is read from the corpus: its images were fetched once and for ever. Any
    other comes from the manifest's index, its rows `pending`. What is done row by row is `Unpack`; what comes before it,
    `shardwise`, looks into none.
    """

    def __init__(self, config: ReadConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row {"source", "shard"} in, the rows of that shard (`ROW_SCHEMA`) out; none once the run is to stop."""
        return Unpack()(self.shardwise(batch))

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """As the call, but the rows are still packed (`PACKED_SCHEMA`)."""
        if self.config.run_dir.get(STOP_FILE) is not None:
            return table_of([], PACKED_SCHEMA)
        tables = [self.read(item["source"], item["shard"]) for item in batch.to_pylist()]
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables)

    def read(self, source: str, shard: int) -> pa.Table:
        """Packed rows of one shard."""
        run_dir, place = self.config.run_dir, corpus_shard(source, shard)
        if run_dir.get(place.record) is not None:
            rows = read_corpus_shard(run_dir, place, images=self.config.images)
            return rows.append_column("sample", pa.nulls(rows.num_rows, SAMPLE))
        index = read_slice(run_dir / index_folder(source), shard).to_pylist()
        if index[0]["tar"] is not None:
            packed = list(tar_samples(index[0]["tar"], self.config.tar_options.get(source)))
        else:
            packed = [{"url": r["url"], "texts": r["texts"], "truth": r["truth"]} for r in index]
        for number, row in enumerate(packed):
            row.update(key=row_key(shard, number), source=source, shard=shard)
            row.setdefault("status", PENDING)
        return table_of(packed, PACKED_SCHEMA)


class Unpack:
    """Rows as the reader found them → rows: url and texts of a tar's samples out of their sidecars, and the caption."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """As many rows (`ROW_SCHEMA`)."""
        rows = batch.select(["status", "url", "texts", "sample", "caption"]).to_pylist()
        for row in rows:
            if row["status"] != PENDING:
                continue
            if row["sample"] is not None:
                row.update(parse_sidecars(row["sample"]))
            row["caption"] = row["texts"][0] if row["texts"] else None
        for name in ("url", "texts", "caption"):
            batch = with_column(batch, name, [row[name] for row in rows], ROW_SCHEMA.field(name).type)
        return batch.select(ROW_SCHEMA.names)


def read_corpus_shard(run_dir: Store, place: ShardFiles, *, images: bool = True) -> pa.Table:
    """Rows of a committed corpus shard, with image bytes where the download succeeded (schema `ROW_SCHEMA`).

    Raises:
        ValueError: the tar lacks an image that the Parquet lists as stored.
    """
    rows = pq.read_table(io.BytesIO(run_dir.read(place.parquet)), schema=CORPUS_SCHEMA)
    stored: dict[str, bytes] = {}
    if images:
        with suppress(FileNotFoundError):  # the first missing image is reported below
            stored = read_tar_images(run_dir.read(place.tar))
    values = []
    for key, status in zip(rows["key"].to_pylist(), rows["status"].to_pylist(), strict=True):
        if images and status == "success" and key not in stored:
            raise ValueError(
                f"{run_dir.address(place.tar)} has no image {key} that {place.name}.parquet lists; "
                "the shard is damaged: capfilt verify RUN --repair makes it again"
            )
        values.append(stored.get(key))
    return rows.append_column(ROW_SCHEMA.field("image"), pa.array(values, type=pa.large_binary()))
