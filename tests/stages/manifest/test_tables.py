"""Tables that are joined before they are written; the garbage collection while a CSV file is read."""

import gc

import pyarrow as pa
import pytest

from capfilt.stages.manifest import records
from capfilt.stages.manifest.arrow.tables import join_equal
from capfilt.stages.manifest.columns import ColumnReader
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.files import find_files


def tables(*counts):
    return [pa.table({"n": pa.array([number] * count, pa.int64())}) for number, count in enumerate(counts)]


@pytest.mark.parametrize(
    ("counts", "least_bytes", "joined"),
    [
        ([2, 2, 2], 1000, [(6, 2)]),
        ([2, 2, 2], 32, [(4, 2), (2, 2)]),  # a table has 16 bytes
        ([2, 2, 2], 33, [(6, 2)]),
        ([2, 2, 2], 1, [(2, 2), (2, 2), (2, 2)]),
        ([2, 2, 1, 1, 2], 1000, [(4, 2), (2, 1), (2, 2)]),
        ([], 1000, []),
    ],
)
def test_tables_with_equally_many_rows_are_joined(counts, least_bytes, joined):
    found = list(join_equal(tables(*counts), least_bytes))
    assert [(table.num_rows, rows) for table, rows in found] == joined
    values = [value for table, _ in found for value in table["n"].to_pylist()]
    assert values == [number for number, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize("enabled", [True, False])
def test_reading_a_csv_file_leaves_the_garbage_collection_as_it_was(tmp_path, monkeypatch, enabled):
    (tmp_path / "a.csv").write_text("url,caption\n" + "u,c\n" * 200 + 'u,"never closed\n')
    config = ManifestConfig(manifest=str(tmp_path / "a.csv"))
    (file,) = find_files(config, "rows")
    during = []
    make_table = records._make_table
    monkeypatch.setattr(records, "_make_table", lambda *a: during.append(gc.isenabled()) or make_table(*a))
    monkeypatch.setattr("capfilt.stages.manifest.text.LINES_CHUNK", 400)
    (gc.enable if enabled else gc.disable)()
    try:
        read = records.read_csv_tables(file, ColumnReader(config), "rows")
        next(read)
        assert gc.isenabled() == enabled
        with pytest.raises(ValueError, match="not closed properly"):
            list(read)
        assert gc.isenabled() == enabled and during and not any(during)
    finally:
        gc.enable()
