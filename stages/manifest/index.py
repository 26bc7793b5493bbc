"""The index of a manifest: its rows, cut once into fixed shards.

The index is a few Parquet files in `manifests/<source>/parts/` with one row group per shard, so that a worker
reads its shard with one ranged read whatever the manifest is: a TSV of 20 GB, a thousand Parquet files with
row groups of a million rows, a COCO annotation file, or existing image tars. `index.json` is written last;
without it there is no index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from capfilt.stages.carried.fields import Choice, ColumnsError, find_name
from capfilt.stages.carried.values import ShardValues
from capfilt.stages.manifest.columns import (
    ColumnReader,
    check_texts,
    describe_lack,
    is_no_column,
)
from capfilt.stages.manifest.config import EXTRA_KEYS, ManifestChanged, ManifestConfig, ManifestError
from capfilt.stages.manifest.cut import (
    SHARDS_PER_PART,
    Cut,
    count_tables,
    cut_parquet,
    iter_shards,
    part_path,
    write_part,
)
from capfilt.stages.manifest.files import ManifestFile, find_files, redact_query
from capfilt.stages.manifest.records import FIRST_RECORDS, read_rows
from capfilt.stages.manifest.survey import check_hashes, choose_carried
from capfilt.stages.storage.layout import INDEX_PARTS, INDEX_RECORD
from capfilt.stages.storage.store import DECODE_ERRORS, FileEntry, Store, encode_json, sha256

SHOWN_COLUMNS = 50
LATER_SETTINGS = ("splits", "format", *EXTRA_KEYS)
"""Settings that are a part of the identity only where they differ from their defaults."""
CHECKED_FILES = 20
"""Files in which carried columns are looked for before a run starts; the cut looks into all."""


class Index(Struct, frozen=True):
    """The content of `index.json`."""

    rows: int
    """Rows of all shards; an image tar counts as one row."""
    shards: int
    identity: str
    """sha256 of names, sizes and versions of the manifest's files, and of the settings for reading them."""
    files: tuple[str, ...]
    """Paths of the manifest's files."""
    tars: int = -1
    """Shards that are one image tar each. Versions before `parts` did not count them."""
    parts: tuple[FileEntry, ...] = ()
    """The files of the index. Earlier versions did not list them."""
    texts: int = -1
    """Texts of all rows, without those of image tars. Earlier versions did not count them."""
    columns: tuple[str, ...] = ()
    """Columns that the files have."""
    embedded: bool = False
    """Whether images are embedded in Parquet files."""
    unfit: dict[str, int] | UnsetType = UNSET
    """{carried column: values that do not fit its type}; absent if all do."""
    version: int = 1
    checksum: str = ""
    """sha256 of the other fields as canonical JSON. Earlier versions did not write it."""

    @property
    def has_tars(self) -> bool:
        """Whether some shards are image tars, whose number of images is unknown until they are read."""
        return self.tars > 0


CutRows = Callable[[ColumnReader, Sequence[ManifestFile], str, ShardValues], Iterator[pa.Table]]
"""Gives the tables of the shards; `stages.manifest.cut.iter_shards` is one."""


def build_index(
    config: ManifestConfig, index_dir: Store, *, source: str, cut: CutRows | None = None
) -> Index:
    """Cut a manifest into shards, or return the existing index if it was made from the same files.

    Args:
        config: the source's manifest section.
        index_dir: the folder `manifests/<source>`.
        source: name of the source, for messages.
        cut: which rows are in which shard; by default all rows, in the order of the files.

    Raises:
        ManifestError: no file matches, a column is missing, the manifest is empty or has changed since it was
            cut, or the index is damaged.
    """
    section = f"sources.{source}.rows"
    files = find_files(config, section)
    existing = _find_valid_index(config, files, index_dir, section)
    if existing is not None:
        return existing
    choice = choose_carried(files, config, section)
    reader = ColumnReader(config, tuple(field.column for field in choice.fields))
    if cut is None and all(file.format == "parquet" for file in files):
        found = cut_parquet(reader, files, section, choice.fields, index_dir)
    else:
        values = ShardValues(choice.fields)
        tables = (cut or iter_shards)(reader, files, section, values)
        found = _write_tables(tables, values, index_dir, section)
    counts = found.counts
    _remove_others(found.parts, index_dir)
    if config.id_column is not None:
        _check_ids(config, choice, index_dir, section)
    names = tuple(str(file) for file in files)
    if counts["rows"] == 0:
        raise ManifestError(f"{section}.manifest: {', '.join(names)} has no rows; give a manifest with rows")
    index = Index(
        rows=counts["rows"],
        shards=counts["shards"],
        identity=_identity(files, config),
        files=names,
        tars=counts["tars"],
        parts=tuple(found.parts),
        texts=counts["texts"],
        columns=tuple(list(reader.seen)[:SHOWN_COLUMNS]),
        embedded=counts["embedded"] > 0,
        unfit=dict(+found.unfit) or UNSET,
    )
    index = replace(index, checksum=_checksum(msgspec.to_builtins(index)))
    index_dir.put_json(INDEX_RECORD, msgspec.to_builtins(index))
    return index


def _write_tables(tables: Iterator[pa.Table], values: ShardValues, index_dir: Store, section: str) -> Cut:
    """Write the tables of all shards, whose carried values are `values`, to the index."""
    found = Cut()
    tables = count_tables(tables, found.counts)
    while (first := next(tables, None)) is not None:
        part = chain([first], islice(tables, SHARDS_PER_PART - 1))
        found.parts.append(write_part(part, len(found.parts), index_dir, section))
    found.unfit = values.unfit
    return found


def _remove_others(parts: Sequence[FileEntry], index_dir: Store) -> None:
    """Remove the files that a process has left which was terminated while it cut another manifest."""
    names = {part.name for part in parts}
    for name in index_dir.list(INDEX_PARTS):
        if name not in names:
            index_dir.remove_file(f"{INDEX_PARTS}/{name}")


def check_unchanged(config: ManifestConfig, index_dir: Store, section: str) -> None:
    """Check that an existing index was made from the present files of the manifest, without reading them.

    Args:
        section: dotted path of the config section, for messages.

    Raises:
        ManifestError: the manifest has changed, or the index is damaged.
    """
    _find_valid_index(config, find_files(config, section), index_dir, section)


def check_manifest(config: ManifestConfig, section: str, *, with_texts: bool = False) -> None:
    """Check that the manifest's files exist and that the first rows of the first file have the columns.

    Args:
        section: dotted path of the config section, for messages.
        with_texts: check also that there is a column of texts, unless `caption_column: none` says that the
            source has none.

    Raises:
        ManifestError: as in `build_index`, or there is no column of texts.
    """
    files = find_files(config, section)
    choose_carried(files[:: -(-len(files) // CHECKED_FILES)], config, section)
    if files[0].format == "tar":
        return
    reader = ColumnReader(config)
    first = list(islice(read_rows(files[0], config, section, reader), FIRST_RECORDS))
    if not first and len(files) == 1:
        raise ManifestError(f"{section}.manifest: {files[0]} has no rows; give a manifest with rows")
    check_hashes(first, config, section)
    if with_texts and first:
        check_texts(reader, first, (section, str(files[0])))


def texts_notice(index: Index, config: ManifestConfig, source: str) -> str | None:
    """A line for the user if a source has no texts and the config does not say so; else None."""
    if index.texts != 0 or index.has_tars or is_no_column(config.caption_column):
        return None
    return describe_lack(index.rows, index.columns, f"sources.{source}")


def read_index(index_dir: Store) -> Index | None:
    """The content of `index.json`, None if it is absent.

    Raises:
        ManifestError: the file is damaged.
    """
    data = index_dir.find(INDEX_RECORD)
    try:
        return None if data is None else decode_index(data)
    except DECODE_ERRORS as error:
        raise ManifestError(
            f"{index_dir.address(INDEX_RECORD)}: damaged ({error}); capfilt verify RUN --repair fixes it"
        ) from error


def decode_index(data: bytes) -> Index:
    """The content of an `index.json`, also of an earlier version.

    Raises:
        msgspec.DecodeError: the data are not JSON, a field is missing or has another type, or the values do
            not fit together.
    """
    index = msgspec.json.decode(data, type=Index)
    # The checksum is that of the content as it is, which may have fields of a later version.
    if index.checksum and index.checksum != _checksum(msgspec.json.decode(data)):
        raise msgspec.ValidationError("its checksum is not that of its content")
    if index.tars >= 0:
        paths = [part_path(part) for part in range(-(-index.shards // SHARDS_PER_PART))]
        if [f"{INDEX_PARTS}/{part.name}" for part in index.parts] != paths:
            raise msgspec.ValidationError(f"`parts` does not list the files of {index.shards} shards")
        return index
    # Earlier versions did not count the tars, which their suffix shows.
    return replace(index, tars=sum(name.endswith(".tar") for name in index.files))


def _checksum(content: dict[str, Any]) -> str:
    """See `Index.checksum`."""
    return sha256(encode_json({name: value for name, value in content.items() if name != "checksum"}))


def read_shard(index_dir: Store, shard: int) -> pa.Table:
    """Index rows of one shard (`stages.manifest.cut.INDEX_SCHEMA`)."""
    part, row_group = divmod(shard, SHARDS_PER_PART)
    # Without read-ahead, only the footer and this shard are requested from a part that holds 1,000 shards.
    path = index_dir.path(part_path(part))
    with index_dir.fs.open(path, "rb", cache_type="none") as stream:
        return pq.ParquetFile(stream, pre_buffer=True).read_row_group(row_group)


def _find_valid_index(
    config: ManifestConfig, files: Sequence[ManifestFile], index_dir: Store, section: str
) -> Index | None:
    """The existing index, None if there is none.

    Raises:
        ManifestError: it was made from other files or with other settings, or it is damaged.
    """
    index = read_index(index_dir)
    if index is None:
        return None
    # Earlier versions listed no parts, and their identity did not depend on splits and format.
    if index.identity != _identity(files, config, with_all_settings=bool(index.parts)):
        manifest = [config.manifest] if isinstance(config.manifest, str) else config.manifest
        # Earlier versions wrote no checksum, by which a damaged identity is told from another manifest.
        damaged = f"; if neither has changed, remove {index_dir.address(INDEX_RECORD)}, which is damaged then"
        raise ManifestChanged(
            f"{section}.manifest: {', '.join(map(redact_query, manifest))}, or a setting for reading it, "
            "has changed since this run cut it into shards; restore it, or use another run directory "
            f"(--set run.dir=...){'' if index.checksum else damaged}"
        )
    return index


def _identity(
    files: Sequence[ManifestFile], config: ManifestConfig, *, with_all_settings: bool = True
) -> str:
    """See `Index.identity`.

    Args:
        with_all_settings: include the settings that earlier versions left out.
    """
    digest = hashlib.sha256("".join(version for file in files for version in file.versions).encode())
    settings = (
        config.url_column,
        config.caption_column,
        config.truth_column,
        config.columns,
        config.shard_size,
    )
    digest.update(repr(settings).encode())
    for name in LATER_SETTINGS if with_all_settings else ():
        if (value := getattr(config, name)) not in (None, "auto", (), {}):
            digest.update(f"{name}={value!r}\n".encode())
    return digest.hexdigest()


def _check_ids(config: ManifestConfig, choice: Choice, index_dir: Store, section: str) -> None:
    """Check the ids of the rows of an index; one with missing or double ids is removed.

    Raises:
        ColumnsError: ids are missing or double.
    """
    from capfilt.stages.carried.ids import check_ids  # imports duckdb

    column = find_name([each.column for each in choice.fields], config.id_column or "")
    name = next(each.name for each in choice.fields if each.column == column)
    files = [index_dir.address(f"{INDEX_PARTS}/{part}") for part in index_dir.list(INDEX_PARTS)]
    try:
        check_ids(files, name, f"{section}.id_column", index_dir.options)
    except ColumnsError:
        index_dir.remove(INDEX_PARTS)
        raise
