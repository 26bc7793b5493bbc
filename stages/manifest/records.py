"""The rows of one manifest file, in any format but image tars.

A row with unusable values (no url, a number instead of a text, bytes that are not UTF-8, a line that is not
JSON) is kept at its place and fails when it is fetched. Only problems of the file as a whole, or of its first
row, are errors, because then the config names the wrong file or columns.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.stages.manifest.annotations import parse_annotations, parse_visual_genome
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.manifest.row import ManifestRow, make_row
from capfilt.stages.manifest.text import iter_csv, iter_json_array, iter_jsonl, iter_tsv, iter_urls

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig
    from capfilt.stages.manifest.files import ManifestFile

URL_NAMES = ("url", "URL", "image_url", "image", "image_path", "path")
CAPTION_NAMES = ("caption", "TEXT", "text", "alt_text", "title")
PARQUET_BATCH_ROWS = 10_000

Record = dict[str, Any]
"""A row with the file's own columns."""


def read_rows(file: ManifestFile, config: ManifestConfig, section: str) -> Iterator[ManifestRow]:
    """Rows of one file in its order.

    Args:
        file: a file of any format but `tar`.
        config: the columns and splits to read.
        section: dotted path of the config section, for messages.

    Raises:
        ManifestError: the file cannot be read in its format, or its first row lacks a column.
    """
    try:
        if config.splits and file.format != "json":
            raise ValueError("splits are given, but only Karpathy's dataset json has splits; remove the key")
        if file.format == "json":
            yield from _read_json(file, config, section)
        else:
            yield from _select_columns(_iter_records(file, config), config, file, section)
    except ManifestError:
        raise
    except (OSError, EOFError, zlib.error, csv.Error, ValueError, pa.ArrowException) as error:
        message = str(error).replace(file.path, str(file))
        raise ManifestError(f"{section}.manifest: cannot read {file} as {file.format} ({message})") from error


def _iter_records(file: ManifestFile, config: ManifestConfig) -> Iterator[Any]:
    """Records of a file with columns."""
    if file.format == "parquet":
        yield from _iter_parquet(file, config)
        return
    with ExitStack() as stack:
        stream = stack.enter_context(_open_text(file, file.path))
        if file.format == "jsonl":
            yield from iter_jsonl(stream)
        elif file.format == "txt":
            captions = stack.enter_context(_open_text(file, file.captions)) if file.captions else None
            yield from iter_urls(stream, captions)
        else:
            iter_lines = iter_tsv if file.format == "tsv" else iter_csv
            yield from iter_lines(stream, config.columns)


def _select_columns(
    records: Iterable[Any], config: ManifestConfig, file: ManifestFile, section: str
) -> Iterator[ManifestRow]:
    """Records as rows; a record that is not an object, other than the first, becomes an empty row."""
    columns: tuple[str | None, str | None, str | None] | None = None
    for record in records:
        if not isinstance(record, dict):
            if columns is None:
                kind = type(record).__name__
                raise ManifestError(
                    f"{section}.manifest: row 0 of {file} is of type {kind}; expected an object"
                )
            record = {}
        if columns is None:
            columns = _find_columns(record, config, file, section)
        url, caption, truth = (record.get(column) if column else None for column in columns)
        yield make_row(url, caption if isinstance(caption, list) else [caption], truth)


def _find_columns(
    record: Record, config: ManifestConfig, file: ManifestFile, section: str
) -> tuple[str | None, str | None, str | None]:
    """Columns of url, caption and truth: those that the config names, else the first of the usual names."""
    columns: list[str | None] = []
    for key, usual, is_required in (
        ("url_column", URL_NAMES, True),
        ("caption_column", CAPTION_NAMES, False),
        ("truth_column", (), False),
    ):
        given = getattr(config, key)
        names = usual if given is None else (given,)
        column = next((name for name in names if name in record), None)
        if column is None and (is_required or given is not None):
            raise ManifestError(
                f"{section}.{key}: no column {' or '.join(names)!r} in {file}; "
                f"it has {', '.join(map(str, record))}; set {section}.{key}"
            )
        columns.append(column)
    url, caption, truth = columns
    return url, caption, truth


def _iter_parquet(file: ManifestFile, config: ManifestConfig) -> Iterator[Record]:
    with file.fs.open(file.path, "rb") as stream:
        parquet = pq.ParquetFile(stream)
        names = parquet.schema_arrow.names
        given = {c for c in (config.url_column, config.caption_column, config.truth_column) if c}
        needed = [n for n in names if n in given or n in URL_NAMES or n in CAPTION_NAMES]
        # If a column is missing, all columns are read, so that the error can list them.
        has_columns = given <= set(names) and any(n in URL_NAMES or n == config.url_column for n in names)
        columns = needed if has_columns else None
        for batch in parquet.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
            arrays = [_as_bytes(column) for column in batch.columns]
            yield from pa.RecordBatch.from_arrays(arrays, names=batch.schema.names).to_pylist()


def _as_bytes(column: pa.Array) -> pa.Array:
    """Strings as bytes: some Parquet files hold strings that are not UTF-8, which cannot be decoded."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.cast(column, pa.large_binary())
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
        return pc.cast(column, pa.list_(pa.binary()))
    return column


def _read_json(file: ManifestFile, config: ManifestConfig, section: str) -> Iterator[ManifestRow]:
    """Rows of a JSON file. Url lists and Visual Genome are streamed; other annotations are loaded whole."""
    with _open_text(file, file.path) as stream:
        elements = iter_json_array(stream)
        if elements is not None and not config.splits:
            try:
                first = next(elements)
            except StopIteration:
                return
            if isinstance(first, dict) and "regions" in first:
                yield from parse_visual_genome(chain([first], elements))
                return
            if not (isinstance(first, dict) and "image" in first):
                yield from _select_columns(chain([first], elements), config, file, section)
                return
    with _open_text(file, file.path) as stream:
        document = json.load(stream, strict=False)
    yield from parse_annotations(document, config.splits)


def _open_text(file: ManifestFile, path: str) -> io.TextIOWrapper:
    compression = "gzip" if path.endswith(".gz") else None
    raw = file.fs.open(path, "rb", compression=compression)
    # The csv module ends lines itself. In other formats only a line feed does: a carriage return may be in a
    # text.
    newline = "" if file.format == "csv" else "\n"
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline=newline)
