"""Manifests of any supported form, cut once into an index of fixed slices.

The index is a handful of Parquet files under `corpus/<source>/index/`, one row group per shard, so that a
worker reads exactly its slice with one ranged read whatever the manifest was: a 20 GB TSV, a thousand Parquet
files with row groups of a million, a COCO annotation file, or image tars that already exist.
`index/index.json` is written last and decides that the index is whole.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from msgspec.structs import replace

from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.config import ManifestError as ManifestError
from capfilt.stages.manifest.files import ManifestFile, manifest_files, redact_query
from capfilt.stages.manifest.records import rows_of
from capfilt.stages.storage.layout import INDEX_RECORD
from capfilt.stages.storage.store import DAMAGED, FileEntry, Store

INDEX_SCHEMA = pa.schema(
    [("url", pa.string()), ("texts", pa.list_(pa.string())), ("truth", pa.string()), ("tar", pa.string())]
)
SHARDS_PER_PART = 1000
"""Row groups per index file: its footer stays about 1 MB, and 400 M rows make 400 files."""


class Index(Struct, frozen=True):
    """What `index.json` says."""

    rows: int
    shards: int
    identity: str
    """sha256 over the names, sizes and modification marks of the manifest's files, and how they are read."""
    files: tuple[str, ...]
    tars: int = -1
    """Shards that are an image tar each: one row here, however many images it has."""
    parts: tuple[FileEntry, ...] = ()
    """The files of the index. Earlier versions did not list them."""
    version: int = 1

    @property
    def of_tars(self) -> bool:
        """Whether image tars are among the shards."""
        return self.tars > 0


def build_index(config: ManifestConfig, store: Store, *, source: str) -> Index:
    """Cut the manifest into slices, or return the index that is there if it was cut from the same files.

    Args:
        config: the source's manifest section.
        store: the folder `corpus/<source>/index`.
        source: the source's name, for messages.

    Raises:
        ManifestError: nothing matches, a column is missing, the manifest is empty or has changed since, or its index
            is damaged.
    """
    where = f"sources.{source}"
    files = manifest_files(config, where)
    known = _standing(config, files, store, where)
    if known is not None:
        return known
    rows, shards, parts = _write_parts(config, files, store, where)
    names = tuple(str(file) for file in files)
    if rows == 0:
        raise ManifestError(f"{where}.manifest: {', '.join(names)} has no rows; give a manifest with some")
    tars = sum(file.form == "tar" for file in files)
    index = Index(rows, shards, _identity(files, config), names, tars, tuple(parts))
    store.put_json(INDEX_RECORD, msgspec.to_builtins(index))
    return index


def check_unchanged(config: ManifestConfig, store: Store, where: str) -> None:
    """The manifest is the one that the index in `store` was cut from, if there is one; cheap.

    Raises:
        ManifestError: it has changed, or the index is damaged.
    """
    _standing(config, manifest_files(config, where), store, where)


def _standing(
    config: ManifestConfig, files: Sequence[ManifestFile], store: Store, where: str
) -> Index | None:
    """The index that is there, None if there is none."""
    known = read_index(store)
    if known is None:
        return None
    # Earlier versions wrote down no parts, and took an index for one of whatever splits and format.
    if known.identity != _identity(files, config, earlier=not known.parts):
        manifest = [config.manifest] if isinstance(config.manifest, str) else config.manifest
        raise ManifestError(
            f"{where}.manifest: {', '.join(map(redact_query, manifest))}, or how it is read, has changed since this run cut it "
            "into shards; put the old one back, or start another run directory (--set run.dir=...)"
        )
    return known


def read_index(store: Store) -> Index | None:
    """What `index.json` in the folder `corpus/<source>/index` says, None if it is not there.

    Raises:
        ManifestError: it is damaged.
    """
    data = store.get(INDEX_RECORD)
    try:
        return None if data is None else decode_index(data)
    except DAMAGED as error:
        raise _damaged(store, str(error)) from error


def decode_index(data: bytes) -> Index:
    """The content of `index.json`, also of one that an earlier version wrote.

    Raises:
        msgspec.DecodeError: not JSON, or a field is missing or has another type.
    """
    index = msgspec.json.decode(data, type=Index)
    if index.tars >= 0:
        return index
    # Earlier versions did not count the tars; their names tell.
    return replace(index, tars=sum(name.endswith(".tar") for name in index.files))


def _damaged(store: Store, what: str) -> ManifestError:
    return ManifestError(
        f"{store.address(INDEX_RECORD)}: damaged ({what}); capfilt verify RUN --repair fixes it"
    )


def check_manifest(config: ManifestConfig, where: str) -> None:
    """The manifest's files exist and its first file has a row with the columns asked for; cheap.

    Raises:
        ManifestError: as `build_index` would.
    """
    files = manifest_files(config, where)
    if files[0].form != "tar" and next(rows_of(files[0], config, where), None) is None and len(files) == 1:
        raise ManifestError(f"{where}.manifest: {files[0]} has no rows; give a manifest with some")


def read_slice(store: Store, shard: int) -> pa.Table:
    """Index rows of one shard (schema `INDEX_SCHEMA`)."""
    part, row_group = divmod(shard, SHARDS_PER_PART)
    # No read-ahead: of a part that holds 1,000 shards an object store is asked for the footer and this shard alone.
    with store.fs.open(store.path(_part_name(part)), "rb", cache_type="none") as stream:
        return pq.ParquetFile(stream, pre_buffer=True).read_row_group(row_group)


def _identity(files: Sequence[ManifestFile], config: ManifestConfig, *, earlier: bool = False) -> str:
    """See `Index.identity`.

    Args:
        earlier: as versions had it that left splits and format out.
    """
    digest = hashlib.sha256("".join(mark for file in files for mark in file.marks).encode())
    reading = (
        config.url_column,
        config.caption_column,
        config.truth_column,
        config.columns,
        config.shard_size,
    )
    digest.update(repr(reading).encode())
    for name in () if earlier else ("splits", "format"):
        if (value := getattr(config, name)) != getattr(ManifestConfig, name):
            digest.update(f"{name}={value!r}\n".encode())
    return digest.hexdigest()


def _write_parts(
    config: ManifestConfig, files: Sequence[ManifestFile], store: Store, where: str
) -> tuple[int, int, list[FileEntry]]:
    """Write the index parts; each is built in memory (urls and texts of a million rows at most) and put whole.

    Returns:
        (rows, shards, what `Store.put` returned for each part).
    """
    rows = shards = 0
    parts: list[FileEntry] = []
    sink: io.BytesIO | None = None
    writer: pq.ParquetWriter | None = None

    def close() -> None:
        nonlocal sink, writer
        if writer is not None and sink is not None:
            writer.close()
            parts.append(store.put(_part_name(len(parts)), sink.getvalue()))
        sink = writer = None

    for table in _slices(config, files, where):
        if writer is None:
            sink = io.BytesIO()
            writer = pq.ParquetWriter(sink, INDEX_SCHEMA, compression="zstd")
        writer.write_table(table, row_group_size=table.num_rows)
        rows, shards = rows + table.num_rows, shards + 1
        if shards % SHARDS_PER_PART == 0:
            close()
    close()
    return rows, shards, parts


def _part_name(part: int) -> str:
    return f"{part:05d}.parquet"


def _slices(config: ManifestConfig, files: Sequence[ManifestFile], where: str) -> Iterator[pa.Table]:
    """Tables of `shard_size` rows; a tar is a slice of its own, since its images are in it already."""
    pending: list[dict[str, Any]] = []
    for file in files:
        if file.form == "tar":
            yield pa.Table.from_pylist([{"tar": file.fs.unstrip_protocol(file.path)}], schema=INDEX_SCHEMA)
            continue
        for row in rows_of(file, config, where):
            pending.append(row)
            if len(pending) == config.shard_size:
                yield pa.Table.from_pylist(pending, schema=INDEX_SCHEMA)
                pending = []
    if pending:
        yield pa.Table.from_pylist(pending, schema=INDEX_SCHEMA)
