"""DuckDB over Parquet files anywhere: pyarrow opens them, DuckDB reads the columns it needs in a stream."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.dataset as ds

from capfilt.stages.storage.filesystems import open_filesystem

MEMORY = "4GB"
"""What DuckDB may hold before it spills."""


def open_parquet(
    files: Sequence[str], schema: pa.Schema, storage_options: Mapping[str, Any] | None = None
) -> ds.Dataset | pa.Table:
    """A lazy dataset of Parquet files, read as `schema` (absent columns are null); empty for no files.

    Args:
        files: local paths or URLs, all on one filesystem.
        storage_options: fsspec options of that filesystem.
    """
    if not files:
        return schema.empty_table()
    filesystem, _ = open_filesystem(files[0], storage_options)
    paths = [fsspec.core.strip_protocol(file) for file in files]
    return ds.dataset(paths, schema=schema, filesystem=filesystem, format="parquet")


def database() -> duckdb.DuckDBPyConnection:
    """DuckDB in memory that spills to the temporary folder when groups do not fit; it clears up when it is closed."""
    folder = os.path.join(tempfile.gettempdir(), f"capfilt-duckdb-{uuid.uuid4().hex[:8]}")
    return duckdb.connect(
        config={"memory_limit": MEMORY, "temp_directory": folder, "preserve_insertion_order": False}
    )
