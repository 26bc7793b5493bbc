"""Values of carried columns: taken from Parquet as they are, and from other formats by type."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.stages.carried.fields import CarriedField, find_name

CONVERSION_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError)
JSON_TYPES = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)


@dataclass
class ShardValues:
    """Collects the carried values of the rows of a shard, in their order.

    A row comes with its record (`{column: value}`), or with a batch of a Parquet file and its place in it.
    """

    fields: Sequence[CarriedField]
    unfit: Counter[str] = field(default_factory=Counter)
    """{name: values that do not fit the type of their column, and so are null}, over all shards."""
    size: int = 0
    """Characters of the records of the shard."""
    _records: list[Mapping[str, Any]] = field(default_factory=list)
    _slices: list[tuple[pa.RecordBatch, int, int]] = field(default_factory=list)
    """(batch, first row, rows); rows of records have a batch without columns."""

    def add(self, place: Any) -> None:
        """Add a row: a record, (batch, row), or None for a row without any values."""
        if isinstance(place, tuple):
            batch, row = place
            self._add_slice(batch, row, 1)
            return
        record = place or {}
        self.size += sum(len(value) for value in record.values() if isinstance(value, str))
        last = self._slices[-1] if self._slices else None
        if last is not None and last[0] is None:
            self._slices[-1] = (None, last[1], last[2] + 1)
        else:
            self._slices.append((None, len(self._records), 1))
        self._records.append(record)

    def add_batches(self, batches: Sequence[pa.RecordBatch], start: int, rows: int) -> None:
        """Add rows of batches that follow one another.

        Args:
            start: place of the first of these rows in all batches together.
        """
        for batch in batches:
            taken = min(rows, batch.num_rows - start)
            if taken > 0:
                self._add_slice(batch, start, taken)
                rows -= taken
            start = max(0, start - batch.num_rows)

    def _add_slice(self, batch: pa.RecordBatch, start: int, rows: int) -> None:
        last = self._slices[-1] if self._slices else None
        if last is not None and last[0] is batch and last[1] + last[2] == start:
            self._slices[-1] = (batch, last[1], last[2] + rows)
        else:
            self._slices.append((batch, start, rows))

    def take(self) -> pa.ChunkedArray:
        """The values of the rows since the last call, as a column of structs."""
        columns = []
        for each in self.fields:
            chunks = [self._chunk(each, *place) for place in self._slices]
            columns.append(pa.concat_arrays(chunks) if chunks else pa.array([], each.type))
        self._records, self._slices, self.size = [], [], 0
        return struct_column(columns, self.fields)

    def _chunk(self, each: CarriedField, batch: pa.RecordBatch | None, start: int, rows: int) -> pa.Array:
        if batch is None:
            records = self._records[start : start + rows]
            array, unfit = convert([_value_in(record, each.column) for record in records], each.type)
        else:
            name = find_name(batch.schema.names, each.column)
            if name is None:
                return pa.nulls(rows, each.type)
            column = batch.column(batch.schema.names.index(name)).slice(start, rows)
            array, unfit = cast(column, each.type)
        self.unfit[each.name] += unfit
        return array


def struct_column(columns: Sequence[pa.Array], fields: Sequence[CarriedField]) -> pa.ChunkedArray:
    """Columns as one column of structs."""
    return pa.chunked_array(
        [pa.StructArray.from_arrays(columns, fields=[pa.field(f.name, f.type) for f in fields])]
    )


def widest_column(column: pa.ChunkedArray) -> str:
    """The carried column with most bytes."""
    sizes = {field.name: each.nbytes for field, each in zip(column.type, column.flatten(), strict=True)}
    return max(sizes, key=sizes.__getitem__)


def _value_in(record: Mapping[str, Any], column: str) -> Any:
    if column in record:
        return record[column]
    name = find_name([name for name in record if isinstance(name, str)], column)
    return None if name is None else record[name]


def convert(values: Sequence[Any], type_: pa.DataType) -> tuple[pa.Array, int]:
    """Values of any kind as an array.

    Text is read where the type is another: "12" as a number, "" as null. Where the type is text, another
    value becomes its JSON.

    Returns:
        The array, and how many values do not fit the type and so are null.
    """
    try:
        # pyarrow would cut 3.5 to 3, and take true for 1.
        kind = float if pa.types.is_integer(type_) else bool if pa.types.is_floating(type_) else None
        if kind is None or not any(isinstance(value, kind) for value in values):
            return pa.array(values, type=type_), 0
    except CONVERSION_ERRORS:
        pass
    pieces, unfit = [], 0
    for value in values:
        try:
            pieces.append(_convert_one(value, type_))
        except CONVERSION_ERRORS:
            pieces.append(pa.nulls(1, type_))
            unfit += 1
    return pa.concat_arrays(pieces), unfit


def find_unfit(values: Sequence[Any], array: pa.Array) -> list[int]:
    """Places of the values that do not fit the type of the array which `convert` has made of them."""
    nulls = pc.is_null(array).to_pylist()
    return [i for i, value in enumerate(values) if nulls[i] and not _is_missing(value)]


def _is_missing(value: Any) -> bool:
    """Whether a value stands for none: null, NaN, or text without characters where a number should be."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _convert_one(value: Any, type_: pa.DataType) -> pa.Array:
    """An array of one value."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        # A JSON escape can be half a surrogate pair, which cannot be encoded.
        text = value.encode("utf-8", "replace").decode("utf-8")
        if is_text(type_):
            return pa.array([text], type_)
        text = text.strip()
        return pa.array([text], pa.string()).cast(type_) if text else pa.nulls(1, type_)
    if isinstance(value, bool) and pa.types.is_floating(type_):
        raise ValueError(f"{value} is no number")
    if isinstance(value, float) and pa.types.is_integer(type_):
        if value != value:  # where pandas has written a missing value
            return pa.nulls(1, type_)
        if not value.is_integer():
            raise ValueError(f"{value} is no integer")
        value = int(value)
    if value is not None and is_text(type_):
        value = json.dumps(value, default=str)
    return pa.array([value], type_)


def cast(column: pa.Array, type_: pa.DataType) -> tuple[pa.Array, int]:
    """A column of a Parquet file in the type that it has in the run; as `convert` otherwise."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        array = column if column.type == type_ else pc.cast(column, type_)
        array.validate(full=True)  # some Parquet files hold strings that are not UTF-8
        return array, 0
    except CONVERSION_ERRORS:
        pass
    if is_text(column.type):
        texts = pc.cast(column, pa.large_binary()).to_pylist()
        return convert([None if t is None else t.decode("utf-8", "replace") for t in texts], type_)
    pieces, unfit = [], 0
    for row in range(len(column)):
        try:
            piece = pc.cast(column.slice(row, 1), type_)
            piece.validate(full=True)
        except CONVERSION_ERRORS:
            piece, unfit = pa.nulls(1, type_), unfit + 1
        pieces.append(piece)
    return pa.concat_arrays(pieces), unfit


def is_text(type_: pa.DataType) -> bool:
    """Whether a column holds strings."""
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def to_json_values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column for a JSON document: bytes as base64, times and decimals as text."""
    if not any(is_of_type(column.type) for is_of_type in JSON_TYPES) and column.type.num_fields == 0:
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            return [None if v is None else base64.b64encode(v).decode() for v in column.to_pylist()]
        if not is_text(column.type) and not pa.types.is_null(column.type):
            return list(pc.cast(column, pa.string()).to_pylist())
    values = column.to_pylist()
    if pa.types.is_floating(column.type):  # JSON has no NaN
        return [None if v is None or v != v or v in (float("inf"), -float("inf")) else v for v in values]
    return list(values)


def describe_unfit(unfit: Mapping[str, int], source: str) -> str:
    """A line for the user: values do not fit the type of their carried column."""
    counts = ", ".join(f"{count:,} of {name}" for name, count in unfit.items())
    return (
        f"sources.{source}: values that do not fit the type of their column are null: {counts}; declare "
        f"another type in sources.{source}.rows.column_types"
    )
