"""SQL over Parquet files on any filesystem: pyarrow opens the files, DuckDB streams the needed columns."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import LocalFileSystem as PyArrowLocal

from capfilt.stages.concurrency import map_ahead
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.store import Store

MEMORY = "4GB"
"""Memory that DuckDB uses before it spills to disk."""
LOCAL_THREADS, REMOTE_THREADS = min(4, os.cpu_count() or 1), 32
"""Threads of `iter_tables`."""
LOCAL_FILES, REMOTE_FILES = 8, 1
"""Files that a thread reads for one turn: handing a file to a thread takes as long as reading a small one
from a disk."""
TABLE_ROWS = 100_000
"""Rows that it gives at a time, if there are as many."""


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
    if isinstance(filesystem, LocalFileSystem):
        filesystem = PyArrowLocal()  # reads without Python, which every call of an fsspec filesystem takes
    return ds.dataset(paths, schema=schema, filesystem=filesystem, format="parquet")


def iter_tables(store: Store, files: Iterable[str], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of Parquet files with the columns of `schema`, `TABLE_ROWS` and some more at a time; columns
    that a file lacks are null.

    For very many small files: memory holds a few of them at a time, and each costs one request to an object
    store. A dataset of pyarrow keeps what it knows of every file, and sends several requests for each.

    Args:
        files: names in the store.
    """

    def read(name: str) -> pa.Table:
        if (data := store.find(name)) is None:
            raise FileNotFoundError(store.address(name))
        table = pq.ParquetFile(pa.py_buffer(data)).read(columns=schema.names, use_threads=False)
        if table.schema.equals(schema):
            return table
        for field in schema:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        return table.select(schema.names).cast(schema)

    threads, size = (LOCAL_THREADS, LOCAL_FILES) if store.is_local else (REMOTE_THREADS, REMOTE_FILES)
    names = iter(files)
    turns = iter(lambda: [*islice(names, size)], [])
    held: list[pa.Table] = []
    rows = 0
    for table in map_ahead(lambda turn: _join([read(name) for name in turn]), turns, threads):
        held.append(table)
        rows += table.num_rows
        if rows >= TABLE_ROWS:
            yield _join(held)
            held, rows = [], 0
    if held:
        yield _join(held)


def _join(tables: list[pa.Table]) -> pa.Table:
    """The rows of several tables in one chunk: DuckDB takes five times as long for chunks of ten rows."""
    return pa.concat_tables(tables).combine_chunks()


def open_database() -> duckdb.DuckDBPyConnection:
    """A DuckDB database in memory that spills to the temporary folder; closing it removes its files."""
    folder = os.path.join(tempfile.gettempdir(), f"capfilt-duckdb-{uuid.uuid4().hex[:8]}")
    return duckdb.connect(
        config={"memory_limit": MEMORY, "temp_directory": folder, "preserve_insertion_order": False}
    )
