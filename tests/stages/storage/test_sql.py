"""SQL over Parquet files of one schema."""

import io
import os
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.stages.storage.sql import iter_tables, open_database, open_parquet
from capfilt.stages.storage.store import Store

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])


def test_files_are_read_with_the_columns_of_the_schema(tmp_path):
    pq.write_table(pa.table({"a": [1, 2], "other": [0, 0]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["x"]}), tmp_path / "2.parquet")
    with open_database() as sql:
        sql.register("files", open_parquet([str(tmp_path / f"{n}.parquet") for n in (1, 2)], SCHEMA))
        sql.register("nothing", open_parquet([], SCHEMA))
        assert sql.execute("SELECT a, b FROM files ORDER BY a").fetchall() == [
            (1, None),
            (2, None),
            (None, "x"),
        ]
        assert sql.execute("SELECT * FROM nothing").fetchall() == []


def test_a_database_spills_to_the_temporary_folder_and_removes_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_database() as sql:
        sql.execute("SET memory_limit = '60MB'")
        sql.execute("SET threads = 1")
        sql.execute("CREATE TEMP TABLE t AS SELECT hash(range), hash(range + 1) FROM range(3_000_000)")
        assert os.listdir(tmp_path) != []
        assert sql.execute("SELECT count(*) FROM t").fetchone() == (3_000_000,)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("is_local", [True, False])
def test_many_files_are_read_a_few_at_a_time(tmp_path, monkeypatch, is_local):
    monkeypatch.setattr("capfilt.stages.storage.sql.TABLE_ROWS", 4)
    monkeypatch.setattr("capfilt.stages.storage.sql.LOCAL_FILES", 2)
    store = Store(str(tmp_path)) if is_local else Store(f"memory://{tmp_path.name}")
    for number in range(10):
        sink = io.BytesIO()
        pq.write_table(pa.table({"b": ["x"] * 2, "a": pa.array([number, None], pa.int32())}), sink)
        store.put(f"{number}.parquet", sink.getvalue())
    sink = io.BytesIO()
    pq.write_table(pa.table({"b": ["only b"]}), sink)
    store.put("10.parquet", sink.getvalue())
    tables = list(iter_tables(store, [f"{n}.parquet" for n in range(11)], SCHEMA))
    assert [table.num_rows for table in tables] == [4, 4, 4, 4, 4, 1]
    assert all(column.num_chunks == 1 for table in tables for column in table.columns)
    rows = [(n, "x") for number in range(10) for n in (number, None)]
    assert [tuple(row.values()) for row in pa.concat_tables(tables).to_pylist()] == [*rows, (None, "only b")]
    assert list(iter_tables(store, [], SCHEMA)) == []
    with pytest.raises(FileNotFoundError):
        list(iter_tables(store, ["absent.parquet"], SCHEMA))
