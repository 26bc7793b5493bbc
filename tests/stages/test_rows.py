"""Keys, tables of rows, and failed rows."""

import pyarrow as pa
import pytest

from capfilt.stages.rows import (
    ROW_SCHEMA,
    ROWS_PER_SHARD_LIMIT,
    count_active,
    format_shard_name,
    mark_crashed,
    mark_failed,
    row_key,
    shard_name,
    shard_of_key,
    table_of,
    with_column,
    without_images,
)
from capfilt.stages.status import MAX_MESSAGE_CHARS, STATUSES


def make_batch(*statuses):
    rows = [
        {"key": row_key(7, number), "source": "web", "shard": 7, "status": status, "image": b"x"}
        for number, status in enumerate(statuses)
    ]
    return table_of(rows, ROW_SCHEMA)


@pytest.mark.parametrize("shard", [0, 12, 999_999, 1_000_000, 12_345_678])
def test_a_key_holds_shard_and_row(shard):
    last = row_key(shard, ROWS_PER_SHARD_LIMIT - 1)
    assert last == f"{shard:06d}99999" and shard_of_key(last) == shard
    assert shard_of_key(row_key(shard, 0)) == shard


def test_names_of_shards():
    assert format_shard_name("web", 12) == "web/000012" and shard_name(make_batch("dns")) == "web/000007"


def test_missing_fields_are_null_and_unknown_fields_an_error():
    table = table_of([{"key": "a"}, {"key": "b", "texts": ["t"]}], ROW_SCHEMA)
    assert table.schema.equals(ROW_SCHEMA)
    assert table["key"].to_pylist() == ["a", "b"] and table["texts"].to_pylist() == [None, ["t"]]
    with pytest.raises(AssertionError, match=r"columns \['kye'\] are not in the schema"):
        table_of([{"kye": "a"}], ROW_SCHEMA)
    assert table_of([], ROW_SCHEMA).schema.equals(ROW_SCHEMA)


def test_a_column_is_appended_or_replaced_at_its_place():
    batch = make_batch("dns", "dns")
    assert with_column(batch, "status", ["a", "b"], pa.string()).column_names == batch.column_names
    longer = with_column(batch, "new", [1, 2], pa.int8())
    assert longer.column_names == [*batch.column_names, "new"] and longer["new"].to_pylist() == [1, 2]
    assert without_images(batch)["image"].to_pylist() == [None, None]


def test_failed_rows_have_a_message_of_one_line_and_no_image():
    error = ValueError("two\nlines " + "x" * MAX_MESSAGE_CHARS)
    failed = mark_failed(make_batch("pending", "success"), error)
    assert failed["status"].to_pylist() == ["internal"] * 2 and failed["image"].to_pylist() == [None] * 2
    (message,) = set(failed["error_message"].to_pylist())
    assert message.startswith("ValueError: two lines x") and len(message) == MAX_MESSAGE_CHARS
    crashed = mark_crashed(make_batch("success"), "out of memory")
    assert crashed.select(["status", "error_message", "image"]).to_pylist() == [
        {"status": "crashed", "error_message": "out of memory", "image": None}
    ]


def test_rows_are_active_until_they_fail():
    assert count_active(make_batch("pending", "success")) == 2
    assert count_active(make_batch(*STATUSES)) == 1  # success
