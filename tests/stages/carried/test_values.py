"""Values of any kind in the type of their column, against values written down by hand."""

import pyarrow as pa
import pytest

from capfilt.stages.carried.fields import CarriedField, ColumnsError
from capfilt.stages.carried.infer import infer_types, unify_schemas
from capfilt.stages.carried.values import ShardValues, cast, convert, to_json_values

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "type_", "expected", "unfit"),
    [
        ([1, 2.0, 3.5, NAN, "4", "x", ""], pa.int64(), [1, 2, None, None, 4, None, None], 2),
        ([1, "2.5", True], pa.float64(), [1.0, 2.5, None], 1),
        ([127, 128, -129], pa.int8(), [127, None, None], 2),
        (["a", 1, {"k": None}, "\ud800", b"\xff"], pa.string(), ["a", "1", '{"k": null}', "?", "\ufffd"], 0),
        ([True, "false", "maybe", 1], pa.bool_(), [True, False, None, None], 2),
        ([["a"], "b", None], pa.list_(pa.string()), [["a"], ["b"], None], 0),
        ([[1], 2], pa.list_(pa.int8()), [[1], None], 1),
    ],
)
def test_values_are_converted_or_null_and_counted(values, type_, expected, unfit):
    array, count = convert(values, type_)
    assert array.type == type_ and array.to_pylist() == expected and count == unfit


def test_a_column_of_parquet_keeps_its_values_where_they_fit():
    assert cast(pa.array([1, 300, None], pa.int64()), pa.int8())[0].to_pylist() == [1, None, None]
    broken = pa.array([b"a", b"\xff"]).view(pa.string())
    assert cast(broken, pa.string()) == (pa.array(["a", "\ufffd"]), 0)
    encoded = pa.array(["a", None, "a"]).dictionary_encode()
    assert cast(encoded, pa.string())[0].to_pylist() == ["a", None, "a"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, 2], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([True, False], pa.bool_()),
        ([True, 1], pa.string()),
        (["a", 1], pa.string()),
        ([None], pa.string()),
        ([2**63 - 1, -(2**63)], pa.int64()),
        ([2**63], pa.string()),
        ([[1], [2.5], []], pa.list_(pa.float64())),
        ([["a"], None], pa.list_(pa.string())),
        ([["a", 1]], pa.string()),
        ([["a"], [1]], pa.string()),
        ([["a"], "b"], pa.string()),
        ([{"k": 1}], pa.string()),
    ],
)
def test_types_of_records(values, expected):
    assert infer_types([{"a": value} for value in values]) == {"a": expected}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.null(), pa.bool_(), pa.bool_()),
        (pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.null(), pa.null(), pa.string()),
    ],
)
def test_types_of_parquet_files(one, other, expected):
    for pair in ((one, other), (other, one)):
        schemas = [(f"{i}.parquet", pa.schema([("a", type_)])) for i, type_ in enumerate(pair)]
        assert unify_schemas(schemas, lambda name: True, "rows") == {"a": expected}
    schemas = [("a.parquet", pa.schema([("a", one)])), ("b.parquet", pa.schema([("b", one)]))]
    assert list(unify_schemas(schemas, lambda name: True, "rows")) == ["a", "b"]


def test_types_that_do_not_go_together_are_refused_unless_they_are_not_needed():
    schemas = [("a", pa.schema([("n", pa.int64())])), ("b", pa.schema([("n", pa.string())]))]
    with pytest.raises(ColumnsError, match="column 'n' is int64 in a and string in b"):
        unify_schemas(schemas, lambda name: True, "rows")
    assert unify_schemas(schemas, lambda name: name != "n", "rows") == {"n": pa.int64()}


def test_rows_of_batches_and_records_keep_their_order():
    values = ShardValues([CarriedField("N", "n", pa.int64())])
    first, second = (pa.RecordBatch.from_pydict({"n": numbers}) for numbers in ([1, 2, 3], [4, 5]))
    places = [(first, 0), (first, 1), {"N": "6"}, None, (first, 2), (second, 1), (second, 0), {"n ": 7.5}]
    for place in places:
        values.add(place)
    assert [row["n"] for row in values.take().to_pylist()] == [1, 2, 6, None, 3, 5, 4, None]
    assert values.unfit == {"n": 1} and values.take().to_pylist() == []


def test_json_has_no_bytes_no_times_and_no_nan():
    def written(values, type_):
        return to_json_values(pa.chunked_array([pa.array(values, type_)]))

    assert written([b"\xff", None], pa.binary()) == ["/w==", None]
    assert written([NAN, 1.5, float("inf")], pa.float64()) == [None, 1.5, None]
    assert written([1], pa.timestamp("ns")) == ["1970-01-01 00:00:00.000000001"]
    assert written(["a"], pa.large_string()) == ["a"]
    assert written([[1, 2]], pa.list_(pa.int8())) == [[1, 2]]
