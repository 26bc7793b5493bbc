"""The leaf columns of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa


def leaf_paths(fields: Iterable[pa.Field], before: str = "") -> list[str]:
    """Paths that pyarrow's writer gives the leaves of these columns: `a.b` of a struct, `a.list.element` of a
    list."""
    paths: list[str] = []
    for field in fields:
        path = before + field.name
        if pa.types.is_struct(field.type):
            paths += leaf_paths(field.type, f"{path}.")
        elif pa.types.is_list(field.type):
            paths += leaf_paths([field.type.value_field.with_name("element")], f"{path}.list.")
        else:
            paths.append(path)
    return paths
