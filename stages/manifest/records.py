"""The rows of one manifest file, in any format but image tars.

A row with unusable values (no url, a number instead of a text, bytes that are not UTF-8, a line that is not
JSON) is kept at its place and fails when it is fetched. Only problems of the file as a whole, or columns that
none of its first rows has, are errors, because then the config names the wrong file or columns.
"""

from __future__ import annotations

import csv
import gc
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from capfilt.stages.manifest.annotations import parse_annotations, parse_visual_genome
from capfilt.stages.manifest.arrow.values import clean_text_lists
from capfilt.stages.manifest.columns import ColumnReader, check_columns, choose_columns
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.manifest.delimited import iter_csv, iter_csv_blocks, iter_tsv
from capfilt.stages.manifest.parquet import iter_parquet
from capfilt.stages.manifest.row import INDEX_SCHEMA, ManifestRow, to_text
from capfilt.stages.manifest.text import (
    LineBlocks,
    bounded_lines,
    iter_json_array,
    iter_jsonl,
    iter_urls,
    open_text,
)

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig
    from capfilt.stages.manifest.files import ManifestFile

FIRST_RECORDS = 100
"""Records that show which columns a file has."""
DOCUMENT_LIMIT = 1 << 29
"""Characters of an annotation document, which is loaded whole."""


def read_rows(
    file: ManifestFile, config: ManifestConfig, section: str, reader: ColumnReader | None = None
) -> Iterator[ManifestRow]:
    """Rows of one file in its order.

    Args:
        file: a file of any format but `tar`.
        config: the columns and splits to read.
        section: dotted path of the config section, for messages.
        reader: remembers the columns; by default one that is used for this file only.

    Raises:
        ManifestError: the file cannot be read in its format, or its first rows lack a column.
    """
    reader = reader or ColumnReader(config)
    with explain_errors(file, section, config):
        if file.format == "json":
            yield from _read_json(file, reader, section)
        elif file.format == "parquet":
            yield from iter_parquet(file, reader, section)
        else:
            yield from _select_columns(_iter_records(file, config), reader, file, section)


@contextmanager
def explain_errors(file: ManifestFile, section: str, config: ManifestConfig) -> Iterator[None]:
    """Raise errors of the libraries that read a file as a ManifestError of one line; also if its format has
    no splits and the config asks for some."""
    try:
        if config.splits and file.format != "json":
            raise ValueError("splits are given, but only Karpathy's dataset json has splits; remove the key")
        yield
    except ManifestError:
        raise
    except (OSError, EOFError, zlib.error, lzma.LZMAError, csv.Error, ValueError, pa.ArrowException) as error:
        message = " ".join(str(error).split()).replace(file.path, str(file))  # pyarrow's may have lines
        raise ManifestError(f"{section}.manifest: cannot read {file} as {file.format} ({message})") from error


def read_csv_tables(file: ManifestFile, reader: ColumnReader, section: str) -> Iterator[pa.Table]:
    """Rows of a CSV file as tables of the index, a few thousand at a time.

    Raises:
        ManifestError, ValueError: as in `read_rows`, whose rows these are.
    """
    config = reader.config
    with open_text(file, file.path) as stream:
        blocks = iter_csv_blocks(LineBlocks(stream), config.columns, config.url_column)
        first: list[tuple[list[str], list[list[str]]]] = []
        for block in blocks:
            first.append(block)
            if sum(len(records) for _, records in first) >= FIRST_RECORDS:
                break
        if not first:
            return
        names, _ = first[0]
        known = list(dict.fromkeys(names))
        check_columns(choose_columns(known, config), known, config, (section, str(file)))
        columns = reader.columns(dict.fromkeys(known))
        places = [None if name is None else names.index(name) for name in columns]
        rest = chain(first, blocks)
        while True:
            with _without_collections():
                _, records = next(rest, (names, None))
                table = None if records is None else _make_table(records, places, len(names))
            if table is None:
                return
            yield table


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the garbage collection: for the thousands of lists of a block, none of which is in a cycle, it
    takes a quarter of the time of reading a file."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _make_table(records: Sequence[Sequence[str]], places: Sequence[int | None], width: int) -> pa.Table:
    """Records as a table of the index; the arguments are those of `_fields`."""
    url, caption, truth = _fields(records, places, width)
    empty = [pa.nulls(len(records), field.type) for field in INDEX_SCHEMA][3:]
    return pa.Table.from_arrays([url, clean_text_lists(caption), truth, *empty], schema=INDEX_SCHEMA)


def _fields(records: Sequence[Sequence[str]], places: Sequence[int | None], width: int) -> list[pa.Array]:
    """Some fields of every record, null where a record has fewer, or where the place is None.

    Args:
        width: fields of most records.
    """
    # All fields of complete records at once, which takes a third of the time.
    columns = list(zip(*records, strict=False)) if set(map(len, records)) == {width} else None

    def read(place: int | None) -> pa.Array:
        if place is None:
            return pa.nulls(len(records), pa.string())
        if columns is not None:
            return _make_array(columns[place])
        return _make_array([fields[place] if place < len(fields) else None for fields in records])

    return [read(place) for place in places]


def _make_array(values: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array(list(map(to_text, values)), pa.string())


def _iter_records(file: ManifestFile, config: ManifestConfig) -> Iterator[Any]:
    """Records of a file of lines."""
    with ExitStack() as stack:
        lines = bounded_lines(stack.enter_context(open_text(file, file.path)))
        if file.format == "jsonl":
            yield from iter_jsonl(lines)
        elif file.format == "txt":
            captions = stack.enter_context(open_text(file, file.captions)) if file.captions else None
            yield from iter_urls(lines, bounded_lines(captions) if captions else None)
        elif file.format == "tsv":
            yield from iter_tsv(lines, config.columns)
        else:
            yield from iter_csv(lines, config.columns, config.url_column)


def _select_columns(
    records: Iterable[Any], reader: ColumnReader, file: ManifestFile, section: str
) -> Iterator[ManifestRow]:
    """Records as rows; a record that is not an object becomes an empty row, if any of the first is one."""
    iterator = iter(records)
    first = list(islice(iterator, FIRST_RECORDS))
    if not first:
        return
    objects = [record for record in first if isinstance(record, dict)]
    if not objects:
        kind = type(first[0]).__name__
        raise ManifestError(f"{section}.manifest: row 0 of {file} is of type {kind}; expected an object")
    names = list(dict.fromkeys(str(name) for record in objects for name in record if name is not None))
    check_columns(choose_columns(names, reader.config), names, reader.config, (section, str(file)))
    for record in chain(first, iterator):
        yield reader.row(record if isinstance(record, dict) else {})


def _read_json(file: ManifestFile, reader: ColumnReader, section: str) -> Iterator[ManifestRow]:
    """Rows of a JSON file. Url lists and Visual Genome are streamed; other annotations are loaded whole.

    A file of JSON lines is read as such, because Spark and `datasets` give it this suffix too.
    """
    splits = reader.config.splits
    with open_text(file, file.path) as stream:
        elements = iter_json_array(stream)
        if elements is not None and not splits:
            try:
                first = next(elements)
            except StopIteration:
                return
            if isinstance(first, dict) and "regions" in first:
                yield from parse_visual_genome(chain([first], elements))
                return
            if not (isinstance(first, dict) and "image" in first):
                yield from _select_columns(chain([first], elements), reader, file, section)
                return
    if elements is None and not splits and _has_json_lines(file):
        with open_text(file, file.path) as stream:
            yield from _select_columns(iter_jsonl(bounded_lines(stream)), reader, file, section)
        return
    document = load_document(file)
    try:
        yield from parse_annotations(document, splits)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"annotations of an unknown form: {type(error).__name__}: {error}") from error


def load_document(file: ManifestFile) -> Any:
    """A JSON file as a whole.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON document, or has more than `DOCUMENT_LIMIT` characters.
    """
    with open_text(file, file.path) as stream:
        text = stream.read(DOCUMENT_LIMIT + 1)
    if len(text) > DOCUMENT_LIMIT:
        raise ValueError(f"a JSON document has more than {DOCUMENT_LIMIT:,} characters")
    try:
        return json.loads(text, strict=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _has_json_lines(file: ManifestFile) -> bool:
    """Whether the first line is an object, and another one follows."""
    with open_text(file, file.path) as stream:
        lines = (line for line in bounded_lines(stream) if line is None or line.strip())
        try:
            first, second = json.loads(next(lines) or "", strict=False), next(lines)
        except (StopIteration, ValueError, RecursionError):
            return False
    return isinstance(first, dict) and (second or "").lstrip().startswith("{")
