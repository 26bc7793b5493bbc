"""SQL over Parquet files of one schema."""

import os
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.storage.sql import open_database, open_parquet

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
