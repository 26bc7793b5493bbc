"""SQL over Parquet files on any filesystem: pyarrow opens the files, DuckDB streams the needed columns."""

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
"""Memory that DuckDB uses before it spills to disk."""


def open_parquet(
    files: Sequence[str], schema: pa.Schema, storage_options: Mapping[str, Any] | None = None
) -> ds.Dataset | pa.Table:
    """A lazy dataset of Parquet files with the columns of `schema`; columns that a file lacks are null.

    Args:
        files: local paths or URLs, all on one filesystem; without files the result is an empty table.
        storage_options: fsspec options of that filesystem.
    """
    if not files:
        return schema.empty_table()
    filesystem, _ = open_filesystem(files[0], storage_options)
    paths = [fsspec.core.strip_protocol(file) for file in files]
    return ds.dataset(paths, schema=schema, filesystem=filesystem, format="parquet")


def open_database() -> duckdb.DuckDBPyConnection:
    """A DuckDB database in memory that spills to the temporary folder; closing it removes its files."""
    folder = os.path.join(tempfile.gettempdir(), f"capfilt-duckdb-{uuid.uuid4().hex[:8]}")
    return duckdb.connect(
        config={"memory_limit": MEMORY, "temp_directory": folder, "preserve_insertion_order": False}
    )
