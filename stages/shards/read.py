"""Reads a shard of the corpus, or of a manifest, as rows. Only this stage creates rows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.carried.values import convert, find_unfit
from capfilt.stages.foreign.shards import read_captions
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import read_shard
from capfilt.stages.rows import (
    CARRIED,
    CORPUS_SCHEMA,
    JOINED,
    OPTIONAL_SCHEMA,
    ROW_SCHEMA,
    UNFIT,
    from_corpus_table,
    row_key,
    row_names,
    table_of,
    with_column,
)
from capfilt.stages.shards.attempts import listed_file
from capfilt.stages.shards.embedded import read_embedded
from capfilt.stages.shards.records import CommitRecord, decode_commit
from capfilt.stages.shards.tars import (
    MAX_BYTES,
    SAMPLE_TYPE,
    iter_samples,
    parse_sidecars,
    read_sidecar_extras,
    read_tar_images,
)
from capfilt.stages.status import PENDING, SUCCESS
from capfilt.stages.storage.layout import STOP_FILE, ShardFiles, captions_folder, corpus_shard, index_folder
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
    captions: frozenset[str] = frozenset()
    """Sources to whose images captions from elsewhere were joined."""
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
        tables = [self._read_all(**item) for item in batch.to_pylist()]
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables)

    def _read_all(self, source: str, shard: int) -> pa.Table:
        """Packed rows of one shard, with the captions that were joined to them."""
        rows = self.read(source, shard)
        if source not in self.config.captions:
            return rows
        folder = self.config.run_dir / captions_folder(source)
        return rows.append_column(JOINED, read_captions(folder, shard, rows["key"].to_pylist()))

    def read(self, source: str, shard: int) -> pa.Table:
        """Packed rows of one shard."""
        run_dir, paths = self.config.run_dir, corpus_shard(source, shard)
        if (data := run_dir.find(paths.record)) is not None:
            rows = read_corpus_shard(run_dir, paths, decode_commit(data), images=self.config.images)
            return rows.append_column("sample", pa.nulls(rows.num_rows, SAMPLE_TYPE))
        manifest = self.config.manifests.get(source, ManifestConfig())
        max_bytes = self.config.max_bytes.get(source, MAX_BYTES)
        index = read_shard(run_dir / index_folder(source), shard)
        names = [name for name in index.column_names if name not in (*OPTIONAL_SCHEMA.names, CARRIED)]
        index_rows = index.select(names).to_pylist()
        is_tar = index_rows[0]["tar"] is not None
        if is_tar:
            packed = list(iter_samples(index_rows[0]["tar"], manifest, max_bytes))
        else:
            packed = [{name: row[name] for name in ("url", "texts", "truth")} for row in index_rows]
            read_embedded(index_rows, packed, manifest.storage_options, max_bytes)
        for number, row in enumerate(packed):
            row.update(key=row_key(shard, number), source=source, shard=shard)
            row.setdefault("status", PENDING)
        table = table_of(packed, PACKED_SCHEMA)
        for name in index.column_names:
            if name not in names:
                values = index[name]
                table = table.append_column(name, pa.nulls(table.num_rows, values.type) if is_tar else values)
        return table


class Unpack:
    """The part of the reader that handles each row separately: parses the sidecars of tar samples into url
    and texts, and sets the caption."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows with `ROW_SCHEMA`, and what else the manifest gives (`rows.row_names`)."""
        rows = batch.select(["status", "url", "texts", "truth", "sample", "caption"]).to_pylist()
        for row in rows:
            if row["status"] != PENDING:
                continue
            if row["sample"] is not None:
                row.update(parse_sidecars(row["sample"]))
                row["extras"] = row["sample"]
            row["caption"] = row["texts"][0] if row["texts"] else None
        for name in ("url", "texts", "truth", "caption"):
            batch = with_column(batch, name, [row[name] for row in rows], ROW_SCHEMA.field(name).type)
        samples = [row.get("extras") for row in rows]
        if any(sample is not None and sample["extras"] is not None for sample in samples):
            batch = _with_sidecar_extras(batch, samples)
        return batch.select(row_names(batch))


def _with_sidecar_extras(batch: pa.Table, samples: Sequence[Mapping[str, Any] | None]) -> pa.Table:
    """`batch` with what else its manifest asks for, from the JSON of its samples (None: not a sample)."""
    type_ = batch[CARRIED].type if CARRIED in batch.column_names else None
    fields = list(type_) if type_ is not None else []
    found = [({}, {}) if sample is None else read_sidecar_extras(sample, fields) for sample in samples]
    for name, kind in zip(OPTIONAL_SCHEMA.names, OPTIONAL_SCHEMA.types, strict=True):
        if name in batch.column_names:
            batch = with_column(batch, name, [extra.get(name) for extra, _ in found], kind)
    if not fields:
        return batch
    columns: list[pa.Array] = []
    unfit: list[list[str]] = [[] for _ in found]
    for each in fields:
        values = [values.get(each.name) for _, values in found]
        columns.append(convert(values, each.type)[0])
        for row in find_unfit(values, columns[-1]):
            unfit[row].append(each.name)
    carried = pa.StructArray.from_arrays(columns, fields=fields)
    batch = batch.set_column(batch.column_names.index(CARRIED), pa.field(CARRIED, type_), carried)
    return with_column(batch, UNFIT, unfit, pa.list_(pa.string()))


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
    rows = decode_corpus_table(run_dir.read(parquet))
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
    images_of = pa.array(values, type=pa.large_binary())
    place = len(CORPUS_SCHEMA)
    return from_corpus_table(rows).add_column(place, ROW_SCHEMA.field("image"), images_of)


def decode_corpus_table(data: bytes) -> pa.Table:
    """The rows in the Parquet file of a corpus shard; columns that an earlier version did not have are
    null."""
    others = [field for field in pq.read_schema(io.BytesIO(data)) if field.name not in CORPUS_SCHEMA.names]
    return pq.read_table(io.BytesIO(data), schema=pa.schema([*CORPUS_SCHEMA, *others]))
