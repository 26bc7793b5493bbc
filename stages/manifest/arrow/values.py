"""Texts of a column: what is no text becomes null, and bytes that are not UTF-8 are replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def is_text(type_: pa.DataType) -> bool:
    """Whether a column holds strings."""
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def is_bytes(type_: pa.DataType) -> bool:
    """Whether a column holds bytes, which may be texts."""
    kinds = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_fixed_size_binary,
        pa.types.is_binary_view,
    )
    return any(is_kind(type_) for is_kind in kinds)


def decode_dictionary(column: pa.Array) -> pa.Array:
    """The column with its values in place of their numbers in a dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def clean_texts(column: pa.Array) -> pa.Array:
    """Each value as text, null if it is none.

    Returns:
        An array of strings that are valid UTF-8.
    """
    column = decode_dictionary(column)
    if not (is_text(column.type) or is_bytes(column.type)):
        return pa.nulls(len(column), pa.string())
    try:
        texts = column.cast(pa.binary()) if pa.types.is_fixed_size_binary(column.type) else column
        texts = texts.cast(pa.string())
        texts.validate(full=True)  # some Parquet files hold strings that are not UTF-8
        return texts
    except pa.ArrowException:
        values: list[Any] = column.cast(pa.large_binary()).to_pylist()
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in values], pa.string())


def clean_text_lists(column: pa.Array) -> pa.Array | None:
    """Each value as a list of texts: a text, or the texts of a list; empty where there is none.

    Returns:
        An array of lists without nulls; None if the values are objects, whose texts have to be looked for.
    """
    column = decode_dictionary(column)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        if _is_nested(column.type.value_type):
            return None
        texts = clean_texts(column.flatten())
        ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(column), 0)).cast(pa.int64())
        return _lists(texts, pa.concat_arrays([pa.array([0], pa.int64()), ends]))
    if _is_nested(column.type):
        return None
    return _lists(clean_texts(column), pa.array(np.arange(len(column) + 1)))


def _is_nested(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return pa.types.is_nested(type_) or isinstance(type_, pa.ExtensionType)


def _lists(texts: pa.Array, offsets: pa.Array) -> pa.Array:
    """Lists of the texts between offsets, of which nulls are left out."""
    is_given = texts.is_valid()
    if texts.null_count:
        given = pc.cumulative_sum(is_given.cast(pa.int64()))
        offsets = pa.concat_arrays([pa.array([0], pa.int64()), given]).take(offsets)
        texts = texts.drop_null()
    return pa.ListArray.from_arrays(offsets.cast(pa.int32()), texts)


def count_characters(texts: pa.Array | pa.ChunkedArray) -> int:
    """Characters of all texts."""
    return pc.sum(pc.utf8_length(texts)).as_py() or 0
