"""Images that are embedded in Parquet files: `datasets` writes a column of `{bytes, path}`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.status import one_line
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.s3_errors import describe_error
from capfilt.stages.storage.store import StoreError

BATCH_ROWS = 16
"""Images decoded at a time."""

Row = dict[str, Any]


def read_embedded(
    index_rows: Sequence[Row], rows: Sequence[Row], options: Mapping[str, Any], max_bytes: int
) -> None:
    """Set the image of every row that has one in a Parquet file, or its status if that cannot be read.

    Args:
        index_rows: rows of a manifest's index.
        rows: the same rows, which are changed.
        options: fsspec options for the files.
        max_bytes: most bytes of an image.

    Raises:
        StoreError: a file cannot be read.
    """
    places: dict[tuple[str, str], dict[int, Row]] = {}
    for index_row, row in zip(index_rows, rows, strict=True):
        if index_row.get("image_file") is not None:
            place = index_row["image_file"], index_row["image_column"]
            places.setdefault(place, {})[index_row["image_row"]] = row
    for place, wanted in places.items():
        _read_file(place, wanted, options, max_bytes)


class _File:
    """A file that keeps the error of reading it: any other error is damage of its content."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except Exception as error:  # any library's
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _read_file(
    place: tuple[str, str], wanted: Mapping[int, Row], options: Mapping[str, Any], max_bytes: int
) -> None:
    """Set the images of the wanted rows of a file, {number of the row in the file: row}.

    Raises:
        StoreError: it cannot be read.
    """
    address, column = place
    try:
        fs, path = open_filesystem(address, options)
        stream = fs.open(path, "rb")
    except Exception as error:  # any library's
        raise StoreError(f"{address}: cannot read it ({describe_error(error)})") from error
    with stream:
        file = _File(stream)
        with _damage_fails(wanted.values(), address, file):
            parquet, start = pq.ParquetFile(file), 0
            for group in range(parquet.metadata.num_row_groups):
                end = start + parquet.metadata.row_group(group).num_rows
                rows = {number - start: row for number, row in wanted.items() if start <= number < end}
                with _damage_fails(rows.values(), address, file):
                    _read_group(parquet, (group, column), rows, max_bytes)
                start = end


def _read_group(
    parquet: pq.ParquetFile, place: tuple[int, str], rows: Mapping[int, Row], max_bytes: int
) -> None:
    """Set the images of rows of one row group, {number of the row in the group: row}."""
    group, column = place
    is_struct = pa.types.is_struct(parquet.schema_arrow.field(column).type)
    leaf, number = f"{column}.bytes" if is_struct else column, 0
    for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=[leaf]) if rows else ():
        values = batch.column(0)
        images = values.field("bytes") if is_struct else values
        for offset in range(batch.num_rows):
            if number + offset in rows:
                _set_image(rows[number + offset], images[offset], max_bytes)
        number += batch.num_rows
        if number > max(rows):
            return


@contextmanager
def _damage_fails(rows: Iterable[Row], address: str, file: _File) -> Iterator[None]:
    """Give the rows that have no image yet the status `decode` if the content of the file is damaged.

    Raises:
        StoreError: the file could not be read.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # pyarrow raises OSError for damage too
        if file.error is not None:
            raise StoreError(f"{address}: cannot read it ({describe_error(file.error)})") from error
        message = one_line(f"cannot read the image from {address}: {error}")
        for row in rows:
            if "image" not in row and "status" not in row:
                row.update(status="decode", error_message=message)


def _set_image(row: Row, image: pa.Scalar, max_bytes: int) -> None:
    """Set the image; a row without bytes keeps its path, from which it is fetched."""
    if not image.is_valid:
        return
    buffer = image.as_buffer()
    if buffer.size > max_bytes:
        message = f"{buffer.size} bytes, the limit is {max_bytes} (fetch.max_bytes)"
        row.update(status="too_big", error_message=message)
    else:
        row["image"] = buffer.to_pybytes()
