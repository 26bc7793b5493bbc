"""Rows of a Parquet file. Only the columns that are used or carried are read.

A column that holds the images themselves (`datasets` writes `{bytes, path}`) is not read: each row says where
its image is, and the worker that reads its shard fetches it (`stages.shards.embedded`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.stages.carried.fields import find_name
from capfilt.stages.manifest.arrow.values import clean_text_lists, clean_texts, decode_dictionary
from capfilt.stages.manifest.columns import ColumnReader, Columns, check_columns, choose_columns
from capfilt.stages.manifest.row import INDEX_SCHEMA, ManifestRow, rows_table, to_text

if TYPE_CHECKING:
    from capfilt.stages.manifest.files import ManifestFile

BATCH_ROWS = 256
"""Rows decoded at a time. A dictionary can repeat one long text in every row, so that a small file fills the
memory."""
TABLE_ROWS, TABLE_BYTES = 1 << 13, 1 << 22
"""Rows that are cleaned at a time, or the bytes from which on they are fewer."""
GROUP_LIMIT, EXPANSION_LIMIT = 1 << 28, 200
"""A row group of more bytes, which are also this many times those of the file, is refused."""
PIECE = 1 << 16
"""Bytes read at a time to see whether a column has images."""
BYTES, PATH = "bytes", "path"
"""Fields of an embedded image."""


@dataclass(frozen=True)
class ParquetSize:
    """What the footer of a Parquet file says."""

    rows: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class _Opened:
    """A Parquet file with the columns that are read of it."""

    file: ManifestFile
    parquet: pq.ParquetFile
    reader: ColumnReader
    columns: Columns
    image: str | None
    """The column of urls, if it holds images."""
    leaves: dict[str, str]
    """{column that is used: what is read of it}."""
    carried: list[str]

    @property
    def address(self) -> str:
        """Address of the file, for its images."""
        address: str = self.file.fs.unstrip_protocol(self.file.path)
        return address

    def batches(self, groups: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        """The columns that are used or carried, of all row groups or of these."""
        wanted = list(dict.fromkeys([*self.leaves.values(), *self.carried]))
        if wanted:
            yield from self.parquet.iter_batches(
                BATCH_ROWS, row_groups=groups, columns=wanted, use_threads=False
            )
            return
        # pyarrow gives no rows if it is asked for no columns.
        metadata = self.parquet.metadata
        counts = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        rows = sum(counts if groups is None else (counts[group] for group in groups))
        for start in range(0, rows, BATCH_ROWS):
            yield pa.RecordBatch.from_arrays([pa.nulls(min(BATCH_ROWS, rows - start))], names=[""])

    def rows(self, batch: pa.RecordBatch, start: int) -> Iterator[ManifestRow]:
        """The rows of a batch, the first of which is row `start` of the file."""
        values = [_values(batch, name) for name in self.leaves]
        for offset in range(batch.num_rows):
            record: dict[str, Any] = {n: each[offset] for n, each in zip(self.leaves, values, strict=True)}
            row = (
                self.reader.row(record) if self.image is None else self._embedded_row(record, start + offset)
            )
            if self.carried:
                row["carried"] = batch, offset
            yield row

    def _embedded_row(self, record: dict[str, Any], number: int) -> ManifestRow:
        assert self.image is not None
        path = record.get(self.image)
        path = to_text(path.get(PATH) if isinstance(path, dict) else path)
        row = self.reader.row({**record, self.image: None})
        row["url"] = path or f"{self.address}#{number}"
        row["image_file"], row["image_column"], row["image_row"] = self.address, self.image, number
        return row

    def table(self, batches: Sequence[pa.RecordBatch], start: int) -> pa.Table:
        """The rows of some batches as a table, the first of which is row `start` of the file."""
        config = self.reader.config
        is_plain = config.hash_column is None and not config.synthetic_columns
        columns = self._columns(batches, start) if is_plain else None
        if columns is not None:
            return pa.Table.from_arrays(columns, schema=INDEX_SCHEMA)
        rows: list[ManifestRow] = []
        for batch in batches:
            rows += self.rows(batch, start + len(rows))
        return rows_table(rows, config)

    def _columns(self, batches: Sequence[pa.RecordBatch], start: int) -> list[pa.Array] | None:
        """Arrays of `INDEX_SCHEMA`; None if the values have to be looked at one by one."""
        rows = sum(batch.num_rows for batch in batches)
        url, caption, truth = (self._column(batches, name) for name in self.columns)
        texts = pa.nulls(rows) if caption is None else caption
        lists = clean_text_lists(texts)
        truths = pa.nulls(rows, pa.string()) if truth is None else clean_texts(truth)
        # A truth that is no text, or is empty, is written as Python writes it.
        if lists is None or (truth is not None and truths.null_count != truth.null_count):
            return None
        if truths.null_count < rows and pc.any(pc.equal(truths, "")).as_py():
            return None
        empty, no_numbers = pa.nulls(rows, pa.string()), pa.nulls(rows, pa.int64())
        if self.image is None:
            urls = empty if url is None else clean_texts(url)
            return [urls, lists, truths, empty, empty, empty, no_numbers]
        numbers = pa.array(np.arange(start, start + rows))
        places = pc.binary_join_element_wise(pa.scalar(self.address), numbers.cast(pa.string()), "#")
        if url is not None:
            paths = clean_texts(pc.struct_field(url, PATH) if pa.types.is_struct(url.type) else url)
            places = pc.if_else(pc.fill_null(pc.not_equal(paths, ""), False), paths, places)
        address, column = (pa.repeat(value, rows) for value in (self.address, self.image))
        return [places, lists, truths, empty, address, column, numbers]

    def _column(self, batches: Sequence[pa.RecordBatch], name: str | None) -> pa.Array | None:
        """A column of some batches as one array; None if it is not read."""
        if name is None or name not in self.leaves:
            return None
        place = batches[0].schema.names.index(name)
        return pa.concat_arrays([decode_dictionary(batch.column(place)) for batch in batches])


def read_size(file: ManifestFile, section: str, reader: ColumnReader) -> ParquetSize:
    """Rows and columns of a Parquet file.

    Raises:
        ManifestError, ValueError: as in `iter_parquet`.
    """
    with file.fs.open(file.path, "rb") as stream:
        parquet = pq.ParquetFile(stream)
        if parquet.metadata.num_rows == 0:
            return ParquetSize(0, ())
        _check_expansion(parquet, stream.seek(0, 2))
        names = parquet.schema_arrow.names
        check_columns(choose_columns(names, reader.config), names, reader.config, (section, str(file)))
        return ParquetSize(parquet.metadata.num_rows, tuple(names))


def iter_parquet(file: ManifestFile, reader: ColumnReader, section: str) -> Iterator[ManifestRow]:
    """Rows of a Parquet file.

    Raises:
        ManifestError: a column is missing.
        ValueError: a row group expands to much more than the file.
    """
    with file.fs.open(file.path, "rb") as stream:
        opened = _open(file, stream, reader, section)
        start = 0
        for batch in opened.batches() if opened is not None else ():
            assert opened is not None
            yield from opened.rows(batch, start)
            start += batch.num_rows


def iter_tables(
    file: ManifestFile, reader: ColumnReader, section: str, rows: range
) -> Iterator[tuple[pa.Table, list[pa.RecordBatch]]]:
    """Some rows of a Parquet file, a few thousand at a time, by whole columns where their types allow it.

    Args:
        rows: numbers of the rows, ascending without gaps.

    Yields:
        Rows as a table of the index, and batches with the carried columns of the same rows.

    Raises:
        ManifestError, ValueError: as in `iter_parquet`.
    """
    with file.fs.open(file.path, "rb") as stream:
        opened = _open(file, stream, reader, section)
        if opened is None:
            return
        held: list[pa.RecordBatch] = []
        first, count, size = rows.start, 0, 0
        for batch in _select(opened, rows):
            held.append(batch)
            count, size = count + batch.num_rows, size + batch.nbytes
            # A dictionary hides how large its values are.
            is_encoded = any(pa.types.is_dictionary(field.type) for field in batch.schema)
            if count >= TABLE_ROWS or size >= TABLE_BYTES or is_encoded:
                yield opened.table(held, first), held
                held, first, count, size = [], first + count, 0, 0
        if held:
            yield opened.table(held, first), held


def _select(opened: _Opened, rows: range) -> Iterator[pa.RecordBatch]:
    """The batches of these rows."""
    metadata = opened.parquet.metadata
    groups: list[int] = []
    start = skipped = 0
    for group in range(metadata.num_row_groups):
        end = start + metadata.row_group(group).num_rows
        if start < rows.stop and end > rows.start:
            skipped = rows.start - start if not groups else skipped
            groups.append(group)
        start = end
    left = len(rows)
    for batch in opened.batches(groups):
        part = batch.slice(skipped, left)
        skipped = max(0, skipped - batch.num_rows)
        left -= part.num_rows
        if part.num_rows:
            yield part
        if not left:
            return


def _open(file: ManifestFile, stream: Any, reader: ColumnReader, section: str) -> _Opened | None:
    """The columns that are read of a file; None if it has no rows."""
    parquet = pq.ParquetFile(stream)
    if parquet.metadata.num_rows == 0:
        return None
    _check_expansion(parquet, stream.seek(0, 2))
    schema, config = parquet.schema_arrow, reader.config
    columns = choose_columns(schema.names, config)
    check_columns(columns, schema.names, config, (section, str(file)))
    reader.columns(dict.fromkeys(schema.names))
    given = (config.hash_column, *config.synthetic_columns.values())
    extras = (find_name(schema.names, name) for name in given if name is not None)
    leaves = {name: name for name in (*columns, *extras) if name is not None}
    # In pieces: by default pyarrow reads a column of a row group whole, here hundreds of images. The
    # statistics would say it too, but pyarrow aborts the process where their metadata are damaged.
    pieces = pq.ParquetFile(stream, metadata=parquet.metadata, buffer_size=PIECE)
    image = columns.url if _is_embedded(pieces, columns.url) else None
    if image is not None:
        leaves.pop(image)
        field = schema.field(schema.names.index(image))
        if pa.types.is_struct(field.type) and field.type.get_field_index(PATH) >= 0:
            leaves[image] = f"{image}.{PATH}"
    carried = [name for name in reader.carried if name in schema.names and name != image]
    return _Opened(file, parquet, reader, columns, image, leaves, carried)


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    """Values of the first column with this name; strings as bytes, because some Parquet files hold strings
    that are not UTF-8 and cannot be decoded."""
    column = batch.column(batch.schema.names.index(name))
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values: list[Any] = pc.cast(column, _bytes_type(column.type)).to_pylist()
    return values


def _bytes_type(type_: pa.DataType) -> pa.DataType:
    """`type_` with binary in place of strings."""
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.large_binary()
    if pa.types.is_list(type_):
        return pa.list_(_bytes_type(type_.value_type))
    if pa.types.is_large_list(type_):
        return pa.large_list(_bytes_type(type_.value_type))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_bytes_type(type_.value_type), type_.list_size)
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_bytes_type(field.type)) for field in type_])
    return type_


def _is_embedded(parquet: pq.ParquetFile, name: str | None) -> bool:
    """Whether a column holds images: bytes that are no text, or structs with bytes of which some are set."""
    if name is None:
        return False
    type_ = parquet.schema_arrow.field(parquet.schema_arrow.names.index(name)).type
    if pa.types.is_struct(type_):
        return type_.get_field_index(BYTES) >= 0 and _has_values(parquet, f"{name}.{BYTES}")
    if not (pa.types.is_binary(type_) or pa.types.is_large_binary(type_)):
        return False
    for batch in parquet.iter_batches(1, columns=[name]):
        for value in batch.column(0):
            if value.is_valid:
                start = value.as_buffer().to_pybytes()[:16]
                return start.startswith((b"RIFF", b"GIF8", b"BM")) or b"\0" in start or b"\xff\xd8" in start
    return False


def _has_values(parquet: pq.ParquetFile, leaf: str) -> bool:
    """Whether a column has a value; it is read up to the first one."""
    batches = parquet.iter_batches(1, columns=[leaf])
    return any(batch.column(0).flatten()[0].null_count < batch.num_rows for batch in batches)


def _check_expansion(parquet: pq.ParquetFile, file_size: int) -> None:
    """Refuse a file that expands to much more than its size.

    The metadata of single columns would be more exact, but pyarrow aborts the process where they are damaged.
    """
    for group in range(parquet.metadata.num_row_groups):
        size = parquet.metadata.row_group(group).total_byte_size
        if size > GROUP_LIMIT and size > EXPANSION_LIMIT * file_size:
            raise ValueError(f"row group {group} expands to {size:,} bytes, the file has {file_size:,}")
