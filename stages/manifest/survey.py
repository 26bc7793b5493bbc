"""Looks through the files of a manifest before it is cut, for the columns that are to be carried."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.carried.fields import (
    ALL,
    Choice,
    ColumnsError,
    choose_fields,
    describe,
    find_name,
    has_extras,
)
from capfilt.stages.carried.infer import infer_types, unify_schemas
from capfilt.stages.manifest.columns import ColumnReader, choose_columns, fold
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.manifest.records import read_rows
from capfilt.stages.manifest.row import ManifestRow
from capfilt.stages.storage.s3_errors import describe_error

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig
    from capfilt.stages.manifest.files import ManifestFile

SAMPLED_FILES, SAMPLED_RECORDS = 20, 1000
"""The first records of so many files, evenly spread, show the columns and types of text formats and tars."""
TAR_PIECE = 1 << 24
"""Bytes of the beginning of a tar that are read for its first JSON members."""
THREADS = 16
"""Footers of Parquet files that are read at the same time."""
ROLES = ("url", "caption", "truth")


def choose_carried(files: Sequence[ManifestFile], config: ManifestConfig, section: str) -> Choice:
    """Decide which columns of a manifest are carried, with their types over all of its files.

    The footer of every Parquet file is read; of other files, the first records of some.

    Args:
        section: dotted path of the manifest section, for messages.

    Raises:
        ColumnsError: a column that the config names is missing or cannot be carried.
        ManifestError: a file cannot be read.
    """
    if not has_extras(config):
        return Choice()
    types = _column_types(files, config, section)
    used = _used_columns(list(types), config, section)
    if config.hash_column is not None:
        _check_hash_type(types, config, section)
    return choose_fields(types, used, config, section)


def _column_types(
    files: Sequence[ManifestFile], config: ManifestConfig, section: str
) -> dict[str, pa.DataType]:
    declared = {fold(name) for name in config.column_types}
    keep = config.keep_columns
    given = [keep] if isinstance(keep, str) else keep
    named = {fold(name) for name in (*given, config.id_column) if name is not None}

    def is_needed(name: str) -> bool:
        return (keep == ALL or fold(name) in named) and fold(name) not in declared

    parquet = [file for file in files if file.format == "parquet"]
    types = unify_schemas(_read_schemas(parquet, section), is_needed, section)
    others = [file for file in files if file.format != "parquet"]
    step = -(-len(others) // SAMPLED_FILES) or 1
    for name, type_ in infer_types(_sample_records(others[::step], config, section)).items():
        if types.setdefault(name, type_) != type_ and is_needed(name):
            raise ColumnsError(
                f"{section}.keep_columns: column {name!r} is {types[name]} in the Parquet files and {type_} "
                f"in the others; declare {section}.column_types.{name}"
            )
    return types


def _read_schemas(files: Sequence[ManifestFile], section: str) -> Iterator[tuple[str, pa.Schema]]:
    def read(file: ManifestFile) -> tuple[str, pa.Schema]:
        try:
            with file.fs.open(file.path, "rb") as stream:
                return str(file), pq.read_schema(stream)
        except Exception as error:  # any library's
            raise ManifestError(
                f"{section}.manifest: cannot read {file} as parquet ({describe_error(error)})"
            ) from error

    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(read, files)


def _sample_records(
    files: Sequence[ManifestFile], config: ManifestConfig, section: str
) -> Iterator[dict[str, Any]]:
    """The first records of these files. Annotations (COCO …) and lists of urls have no columns to carry."""
    for file in files:
        if file.format == "tar":
            yield from islice(_sidecars(file), SAMPLED_RECORDS)
            continue
        reader = _RecordReader(config)
        for _ in islice(read_rows(file, config, section, reader), SAMPLED_RECORDS):
            pass
        yield from reader.records


class _RecordReader(ColumnReader):
    """Keeps the records that it makes rows of."""

    def __init__(self, config: ManifestConfig) -> None:
        super().__init__(config)
        self.records: list[dict[str, Any]] = []

    def row(self, record: dict[str, Any]) -> ManifestRow:
        self.records.append(record)
        return super().row(record)


def _sidecars(file: ManifestFile) -> Iterator[dict[str, Any]]:
    """The JSON members in the first piece of a tar."""
    with file.fs.open(file.path, "rb") as stream:
        piece = stream.read(TAR_PIECE)
    # The piece ends somewhere in a member; a damaged tar is a matter of the rows that are read from it.
    with (
        suppress(tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError),
        tarfile.open(fileobj=io.BytesIO(piece), mode="r:*") as tar,
    ):
        for member in tar:
            if not (member.isfile() and member.name.endswith(".json")):
                continue
            data = tar.extractfile(member).read()  # type: ignore[union-attr]
            with suppress(ValueError, RecursionError):
                if isinstance(record := json.loads(data), dict):
                    yield record


def _used_columns(names: Sequence[str], config: ManifestConfig, section: str) -> dict[str, str]:
    """The columns that the run reads itself, with what they are.

    Raises:
        ColumnsError: a column of the hash or of captions is missing.
    """
    columns = choose_columns(names, config)
    used = {column: role for column, role in zip(columns, ROLES, strict=True) if column is not None}
    given = {f"synthetic_columns.{who}": column for who, column in config.synthetic_columns.items()}
    if config.hash_column is not None:
        given["hash_column"] = config.hash_column
    for key, column in given.items():
        found = find_name(names, column)
        if found is None:
            raise ColumnsError(f"{section}.{key}: no column {column!r}; the manifest has {describe(names)}")
        used.setdefault(found, "hash" if key == "hash_column" else "text of a captioner")
    return used


def _check_hash_type(types: dict[str, pa.DataType], config: ManifestConfig, section: str) -> None:
    column = find_name(list(types), config.hash_column or "")
    type_ = types[column] if column is not None else pa.string()
    is_bytes = pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
    is_fixed = pa.types.is_fixed_size_binary(type_) and type_.byte_width in (16, 32)
    if not (pa.types.is_string(type_) or pa.types.is_large_string(type_) or is_bytes or is_fixed):
        raise ColumnsError(
            f"{section}.hash_column: {column!r} is of type {type_}, and a hash of bytes is text of 64 "
            "(sha256) or 32 (md5) hex digits; LAION's `hash` is made of url and text, so remove the key"
        )


def check_hashes(rows: Iterable[ManifestRow], config: ManifestConfig, section: str) -> None:
    """Check that some of the first rows have a hash, if they have anything in that column.

    Raises:
        ColumnsError: none of the values is a hash.
    """
    values = [value for row in rows if (value := row.get("expected_hash"))]
    if values and not any(is_hash(value) for value in values):
        raise ColumnsError(
            f"{section}.hash_column: {config.hash_column!r} has {values[0][:40]!r}, neither a sha256 (64 "
            "hex digits) nor an md5 (32); name a column of hashes, or remove the key"
        )


def is_hash(value: str) -> bool:
    """Whether a text is a sha256 or an md5 in lower-case hex digits."""
    return len(value) in (32, 64) and not set(value) - set("0123456789abcdef")
