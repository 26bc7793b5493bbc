"""Reads a shard of the corpus, or of a manifest, as rows. Only this stage creates rows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import read_shard
from capfilt.stages.rows import CORPUS_SCHEMA, ROW_SCHEMA, row_key, table_of, with_column
from capfilt.stages.shards.attempts import listed_file
from capfilt.stages.shards.embedded import read_embedded
from capfilt.stages.shards.records import CommitRecord, decode_commit
from capfilt.stages.shards.tars import MAX_BYTES, SAMPLE_TYPE, iter_samples, parse_sidecars, read_tar_images
from capfilt.stages.status import PENDING, SUCCESS
from capfilt.stages.storage.layout import STOP_FILE, ShardFiles, corpus_shard, index_folder
from capfilt.stages.storage.store import Store

PACKED_SCHEMA = ROW_SCHEMA.append(pa.field("sample", SAMPLE_TYPE))
"""Rows whose tar sample, if they have one, is not yet unpacked."""


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """Where shards are read from."""

    run_dir: Store
    """The run directory."""
    manifests: Mapping[str, ManifestConfig] = field(default_factory=dict)
    """{source: its manifest section}: the columns in its image tars, and fsspec options for these and for
    Parquet files with images."""
    max_bytes: Mapping[str, int] = field(default_factory=dict)
    """{source: most bytes of an image}."""
    images: bool = True
    """Read the images of corpus shards; if False, only their rows."""


class Read:
    """Turns {"source", "shard"} into the rows of that shard.

    A shard with a corpus record is read from the corpus, because its images are downloaded only once. Any
    other shard is read from the manifest's index, with `pending` rows. `shardwise` reads without decoding any
    row; `Unpack` handles each row separately.
    """

    def __init__(self, config: ReadConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows (`ROW_SCHEMA`) of a shard {"source", "shard"}; no rows if the run is to stop."""
        return Unpack()(self.shardwise(batch))

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """Like `__call__`, but the rows are still packed (`PACKED_SCHEMA`)."""
        if self.config.run_dir.find(STOP_FILE) is not None:
            return table_of([], PACKED_SCHEMA)
        tables = [self.read(item["source"], item["shard"]) for item in batch.to_pylist()]
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables)

    def read(self, source: str, shard: int) -> pa.Table:
        """Packed rows of one shard."""
        run_dir, paths = self.config.run_dir, corpus_shard(source, shard)
        if (data := run_dir.find(paths.record)) is not None:
            rows = read_corpus_shard(run_dir, paths, decode_commit(data), images=self.config.images)
            return rows.append_column("sample", pa.nulls(rows.num_rows, SAMPLE_TYPE))
        manifest = self.config.manifests.get(source, ManifestConfig())
        max_bytes = self.config.max_bytes.get(source, MAX_BYTES)
        index_rows = read_shard(run_dir / index_folder(source), shard).to_pylist()
        if index_rows[0]["tar"] is not None:
            packed = list(iter_samples(index_rows[0]["tar"], manifest, max_bytes))
        else:
            packed = [{name: row[name] for name in ("url", "texts", "truth")} for row in index_rows]
            read_embedded(index_rows, packed, manifest.storage_options, max_bytes)
        for number, row in enumerate(packed):
            row.update(key=row_key(shard, number), source=source, shard=shard)
            row.setdefault("status", PENDING)
        return table_of(packed, PACKED_SCHEMA)


class Unpack:
    """The part of the reader that handles each row separately: parses the sidecars of tar samples into url
    and texts, and sets the caption."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows with `ROW_SCHEMA`."""
        rows = batch.select(["status", "url", "texts", "truth", "sample", "caption"]).to_pylist()
        for row in rows:
            if row["status"] != PENDING:
                continue
            if row["sample"] is not None:
                row.update(parse_sidecars(row["sample"]))
            row["caption"] = row["texts"][0] if row["texts"] else None
        for name in ("url", "texts", "truth", "caption"):
            batch = with_column(batch, name, [row[name] for row in rows], ROW_SCHEMA.field(name).type)
        return batch.select(ROW_SCHEMA.names)


def read_corpus_shard(
    run_dir: Store, paths: ShardFiles, record: CommitRecord | None = None, *, images: bool = True
) -> pa.Table:
    """Rows of a committed corpus shard (`ROW_SCHEMA`).

    Args:
        paths: the files of the shard.
        record: its commit record; None if the node that has committed it is done.
        images: read the images too; if False, they are null.

    Raises:
        ValueError: the tar lacks an image that the Parquet file lists as stored.
    """
    parquet = paths.parquet if record is None else listed_file(paths, record, "parquet")
    tar = paths.tar if record is None else listed_file(paths, record, "tar")
    rows = pq.read_table(io.BytesIO(run_dir.read(parquet)), schema=CORPUS_SCHEMA)
    stored: dict[str, bytes] = {}
    if images:
        with suppress(FileNotFoundError):  # the first missing image is reported below
            stored = read_tar_images(run_dir.read(tar))
    values = []
    for key, status in zip(rows["key"].to_pylist(), rows["status"].to_pylist(), strict=True):
        if images and status == SUCCESS and key not in stored:
            raise ValueError(
                f"{run_dir.address(tar)} has no image {key}, which {paths.name}.parquet lists; "
                "the shard is damaged: capfilt verify RUN --repair fixes it"
            )
        values.append(stored.get(key))
    return rows.append_column(ROW_SCHEMA.field("image"), pa.array(values, type=pa.large_binary()))
