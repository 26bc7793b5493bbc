"""Images that are embedded in Parquet files: `datasets` writes a column of `{bytes, path}`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    for (address, column), wanted in places.items():
        try:
            _read_file((address, column), wanted, options, max_bytes)
        except (pa.ArrowException, ValueError) as error:
            message = one_line(f"cannot read the image from {address}: {error}")
            for row in wanted.values():
                if "image" not in row and "status" not in row:
                    row.update(status="decode", error_message=message)
        except Exception as error:  # any library's
            raise StoreError(f"{address}: cannot read it ({describe_error(error)})") from error


def _read_file(
    place: tuple[str, str], wanted: Mapping[int, Row], options: Mapping[str, Any], max_bytes: int
) -> None:
    address, column = place
    fs, path = open_filesystem(address, options)
    with fs.open(path, "rb") as stream:
        parquet = pq.ParquetFile(stream)
        is_struct = pa.types.is_struct(parquet.schema_arrow.field(column).type)
        leaf = f"{column}.bytes" if is_struct else column
        start = 0
        for group in range(parquet.metadata.num_row_groups):
            end = start + parquet.metadata.row_group(group).num_rows
            if any(start <= number < end for number in wanted):
                number = start
                for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=[leaf]):
                    values = batch.column(0)
                    images = values.field("bytes") if is_struct else values
                    for offset in range(batch.num_rows):
                        if number + offset in wanted:
                            _set_image(wanted[number + offset], images[offset], max_bytes)
                    number += batch.num_rows
                    if number > max(wanted):
                        break
            start = end


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
