"""The rows of one manifest file, whatever its form: {"url", "texts", "truth"}.

A row whose values are unusable (no url, a number for a text, bytes that are no UTF-8, a line of JSON that is none) stays
a row at its place, and gets its status when it is fetched. Only what is wrong with the file as a whole, or with its
very first row, is an error: then the config names the wrong file or columns.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.stages.manifest.annotations import annotation_rows, visual_genome_rows
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.manifest.text import array_items, csv_records, jsonl_records, tsv_records, url_records

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig
    from capfilt.stages.manifest.files import ManifestFile

URL_NAMES = ("url", "URL", "image_url", "image", "image_path", "path")
CAPTION_NAMES = ("caption", "TEXT", "text", "alt_text", "title")

Row = dict[str, Any]


def rows_of(file: ManifestFile, config: ManifestConfig, where: str) -> Iterator[Row]:
    """Rows of one file in its order.

    Args:
        file: of any form but `tar`.
        config: the columns and splits that are meant.
        where: dotted path of the config section, for messages.

    Raises:
        ManifestError: it cannot be read as its form, or its first row has not the columns.
    """
    try:
        if config.splits and file.form != "json":
            raise ValueError("splits are given, but only Karpathy's dataset json has them: leave the key out")
        if file.form == "json":
            yield from _json_rows(file, config, where)
        else:
            yield from _checked(_records(file, config), config, file, where)
    except ManifestError:
        raise
    except (OSError, EOFError, zlib.error, csv.Error, ValueError, pa.ArrowException) as error:
        said = str(error).replace(file.path, str(file))
        raise ManifestError(f"{where}.manifest: cannot read {file} as {file.form} ({said})") from error


def _records(file: ManifestFile, config: ManifestConfig) -> Iterator[Any]:
    if file.form == "parquet":
        yield from _parquet_records(file, config)
        return
    with ExitStack() as stack:
        stream = stack.enter_context(_open_text(file, file.path))
        if file.form == "jsonl":
            yield from jsonl_records(stream)
        elif file.form == "txt":
            captions = stack.enter_context(_open_text(file, file.captions)) if file.captions else None
            yield from url_records(stream, captions)
        else:
            read = tsv_records if file.form == "tsv" else csv_records
            yield from read(stream, config.columns)


def _checked(records: Iterable[Any], config: ManifestConfig, file: ManifestFile, where: str) -> Iterator[Row]:
    """Any iterable of mappings as rows; a value that is no text becomes null."""
    columns: tuple[str | None, str | None, str | None] | None = None
    for record in records:
        if not isinstance(record, dict):
            if columns is None:
                raise ManifestError(
                    f"{where}.manifest: row 0 of {file} is {type(record).__name__}, not an object"
                )
            record = {}
        if columns is None:
            columns = _columns(record, config, file, where)
        url, caption, truth = ((record.get(c) if c else None) for c in columns)
        texts = caption if isinstance(caption, list) else [caption]
        yield {
            "url": _text(url),
            "texts": [text for text in map(_text, texts) if text is not None],
            "truth": None if truth is None else _text(truth) or str(truth),
        }


def _text(value: Any) -> str | None:
    """`value` as a text that can be written as UTF-8, None if it is none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    # A JSON escape can name half a surrogate pair, which no encoding takes.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _columns(
    record: Row, config: ManifestConfig, file: ManifestFile, where: str
) -> tuple[str | None, str | None, str | None]:
    def choose(key: str, given: str | None, usual: Sequence[str], *, needed: bool) -> str | None:
        if given is not None:
            if given in record:
                return given
        else:
            for name in usual:
                if name in record:
                    return name
            if not needed:
                return None
        wanted = given if given is not None else " or ".join(usual)
        raise ManifestError(
            f"{where}.{key}: no column {wanted!r} in {file}; it has {', '.join(map(str, record))}; set {where}.{key}"
        )

    return (
        choose("url_column", config.url_column, URL_NAMES, needed=True),
        choose("caption_column", config.caption_column, CAPTION_NAMES, needed=False),
        choose("truth_column", config.truth_column, (), needed=False),
    )


def _parquet_records(file: ManifestFile, config: ManifestConfig) -> Iterator[Row]:
    with file.fs.open(file.path, "rb") as stream:
        parquet = pq.ParquetFile(stream)
        names = parquet.schema_arrow.names
        given = {c for c in (config.url_column, config.caption_column, config.truth_column) if c}
        wanted = [n for n in names if n in given or n in URL_NAMES or n in CAPTION_NAMES]
        # With a name that is not there every column is read, so that the error can list what is.
        complete = given <= set(names) and any(n in URL_NAMES or n == config.url_column for n in names)
        for batch in parquet.iter_batches(batch_size=10_000, columns=wanted if complete else None):
            columns = [_unchecked(column) for column in batch.columns]
            yield from pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()


def _unchecked(column: pa.Array) -> pa.Array:
    """Texts as bytes: Parquet files hold strings that are no UTF-8, and one of them would end the reading."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.cast(column, pa.large_binary())
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
        return pc.cast(column, pa.list_(pa.binary()))
    return column


def _json_rows(file: ManifestFile, config: ManifestConfig, where: str) -> Iterator[Row]:
    """A url list is read piece by piece, annotations as a whole."""
    with _open_text(file, file.path) as stream:
        items = array_items(stream)
        if items is not None and not config.splits:
            try:
                first = next(items)
            except StopIteration:
                return
            if isinstance(first, dict) and "regions" in first:
                yield from map(_texts_only, visual_genome_rows(chain([first], items)))
                return
            if not (isinstance(first, dict) and "image" in first):
                yield from _checked(chain([first], items), config, file, where)
                return
    with _open_text(file, file.path) as stream:
        document = json.load(stream, strict=False)
    yield from map(_texts_only, annotation_rows(document, config.splits))


def _texts_only(row: Row) -> Row:
    texts = [text for text in map(_text, row["texts"]) if text is not None]
    return row | {"url": _text(row["url"]), "texts": texts}


def _open_text(file: ManifestFile, path: str) -> io.TextIOWrapper:
    compression = "gzip" if path.endswith(".gz") else None
    raw = file.fs.open(path, "rb", compression=compression)
    # But in CSV lines end at line feeds alone: a carriage return inside a text is no end of a row.
    newline = "" if file.form == "csv" else "\n"
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline=newline)
