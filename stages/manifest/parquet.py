"""Rows of a Parquet file. Only the columns that are used or carried are read.

A column that holds the images themselves (`datasets` writes `{bytes, path}`) is not read: each row says where
its image is, and the worker that reads its shard fetches it (`stages.shards.embedded`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.stages.carried.fields import find_name
from capfilt.stages.manifest.columns import ColumnReader, check_columns, choose_columns
from capfilt.stages.manifest.row import ManifestRow, to_text

if TYPE_CHECKING:
    from capfilt.stages.manifest.files import ManifestFile

BATCH_ROWS = 256
"""Rows decoded at a time. A dictionary can repeat one long text in every row, so that a small file fills the
memory."""
GROUP_LIMIT, EXPANSION_LIMIT = 1 << 28, 200
"""A row group of more bytes, which are also this many times those of the file, is refused."""
PIECE = 1 << 16
"""Bytes read at a time to see whether a column has images."""
BYTES, PATH = "bytes", "path"
"""Fields of an embedded image."""


def iter_parquet(file: ManifestFile, reader: ColumnReader, section: str) -> Iterator[ManifestRow]:
    """Rows of a Parquet file.

    Raises:
        ManifestError: a column is missing.
        ValueError: a row group expands to much more than the file.
    """
    with file.fs.open(file.path, "rb") as stream:
        parquet = pq.ParquetFile(stream)
        if parquet.metadata.num_rows == 0:
            return
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
        start = 0
        carried = [name for name in reader.carried if name in schema.names and name != image]
        wanted = list(dict.fromkeys([*leaves.values(), *carried]))
        # pyarrow gives no rows if it is asked for no columns.
        batches = parquet.iter_batches(BATCH_ROWS, columns=wanted) if wanted else ()
        for batch in batches or _empty_batches(parquet.metadata.num_rows):
            values = [_values(batch, name) for name in leaves]
            for offset in range(batch.num_rows):
                record: dict[str, Any] = {n: each[offset] for n, each in zip(leaves, values, strict=True)}
                if image is None:
                    row = reader.row(record)
                else:
                    row = _embedded_row(file, reader, (image, record, start + offset))
                if carried:
                    row["carried"] = batch, offset
                yield row
            start += batch.num_rows


def _embedded_row(
    file: ManifestFile, reader: ColumnReader, place: tuple[str, dict[str, Any], int]
) -> ManifestRow:
    image, record, number = place
    path = record.get(image)
    path = to_text(path.get(PATH) if isinstance(path, dict) else path)
    row = reader.row({**record, image: None})
    address = file.fs.unstrip_protocol(file.path)
    row["url"] = path or f"{address}#{number}"
    row["image_file"], row["image_column"], row["image_row"] = address, image, number
    return row


def _empty_batches(rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, rows, BATCH_ROWS):
        length = min(BATCH_ROWS, rows - start)
        yield pa.RecordBatch.from_arrays([pa.nulls(length)], names=[""])


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
