"""Types of carried columns: from the schemas of Parquet files, or from sample records of other formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from capfilt.stages.carried.fields import ColumnsError

NARROW, WIDE = -(2**63), 2**63
"""Limits of int64."""


def unify_schemas(
    schemas: Iterable[tuple[str, pa.Schema]], is_needed: Callable[[str], bool], section: str
) -> dict[str, pa.DataType]:
    """The columns of all Parquet files of a manifest, with a type that holds the values of each file.

    Integers of different widths become the wider one, integers and floats become floats, a column without
    any value takes the type that it has elsewhere.

    Args:
        schemas: (name of a file, its schema).
        is_needed: whether a column must have one type. Of others, the type in the first file counts.
        section: dotted path of the manifest section, for messages.

    Raises:
        ColumnsError: two files have types that no type holds.
    """
    types: dict[str, pa.DataType] = {}
    first: dict[str, str] = {}
    for file, schema in schemas:
        for field in schema:
            name, type_ = field.name, plain_type(field.type)
            if name not in types or types[name] == type_:
                types.setdefault(name, type_)
                first.setdefault(name, file)
                continue
            try:
                types[name] = _unify(types[name], type_)
            except pa.ArrowException as error:
                if not is_needed(name):
                    continue
                raise ColumnsError(
                    f"{section}.keep_columns: column {name!r} is {types[name]} in {first[name]} and {type_} "
                    f"in {file}; declare {section}.column_types.{name}=string, or leave the column out"
                ) from error
    return {name: pa.string() if pa.types.is_null(type_) else type_ for name, type_ in types.items()}


def _unify(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    schemas = [pa.schema([("a", one)]), pa.schema([("a", other)])]
    return pa.unify_schemas(schemas, promote_options="permissive").field("a").type


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type of the values of a column, whatever encoding it has in its file."""
    if isinstance(type_, pa.ExtensionType):
        type_ = type_.storage_type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return pa.string() if pa.types.is_string_view(type_) else type_


def infer_types(records: Iterable[Mapping[Any, Any]]) -> dict[str, pa.DataType]:
    """The columns of sample records, with types that hold all of their values.

    Truth values, integers, numbers and texts, and lists of one of these, have the type of the same name. A
    mixture of them, or an object, is carried as text: its JSON.
    """
    types: dict[str, pa.DataType | None] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(name, str):
                types[name] = _widen(types.get(name), _type_of(value))
    return {name: type_ or pa.string() for name, type_ in types.items()}


def _type_of(value: Any) -> pa.DataType | None:
    """Type of a value; None for no value."""
    if value is None or value == []:
        return None
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if NARROW <= value < WIDE else pa.string()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, list):
        inner: pa.DataType | None = None
        for each in value:
            inner = _widen(inner, _type_of(each))
        is_flat = all(not isinstance(each, (list, dict)) for each in value)
        is_mixed = inner == pa.string() and not all(isinstance(each, str | None) for each in value)
        return pa.list_(inner or pa.string()) if is_flat and not is_mixed else pa.string()
    return pa.string()


def _widen(one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType | None:
    if one is None or other is None or one == other:
        return one or other
    numbers = (pa.int64(), pa.float64())
    if one in numbers and other in numbers:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = _widen(one.value_type, other.value_type)
        texts = pa.string() in (one.value_type, other.value_type)
        return pa.string() if texts else pa.list_(inner)
    return pa.string()
