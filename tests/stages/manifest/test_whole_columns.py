"""Whole columns are cleaned as single values are: an index is byte for byte the one made row by row."""

import io
import tarfile
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.stages.carried.values import ShardValues
from capfilt.stages.manifest import cut, parquet, text
from capfilt.stages.manifest.columns import ColumnReader
from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.cut import index_table, part_path
from capfilt.stages.manifest.files import find_files
from capfilt.stages.manifest.index import build_index, read_shard
from capfilt.stages.manifest.records import read_csv_tables, read_rows
from capfilt.stages.manifest.survey import choose_carried
from capfilt.stages.storage.store import Store
from tests.properties import damage, draws, numbers_of_cases, phrase
from tests.properties import text as random_text
from tests.stages.manifest.test_parser_properties import MEMORY, TOKENS, records, to_csv

SECTION = "sources.web.rows"
INVALID = b"caf\xe9 \xff\xfe"
"""Bytes that are not UTF-8."""


def strings(*values):
    """A column of strings, of which some are not UTF-8."""
    data = [
        None if value is None else value.encode() if isinstance(value, str) else value for value in values
    ]
    array = pa.array(data, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(array), array.buffers())


def parts_by_row(config, shards_per_part):
    """{path: bytes} of an index whose rows are read one by one, and written shard by shard."""
    files = find_files(config, SECTION)
    choice = choose_carried(files, config, SECTION)
    values = ShardValues(choice.fields)
    reader = ColumnReader(config, tuple(field.column for field in choice.fields))
    rows = (row for file in files for row in read_rows(file, config, SECTION, reader))
    tables = []
    while shard := list(islice(rows, config.shard_size)):
        for row in shard if values.fields else ():
            values.add(row.pop("carried", None))
        tables.append(index_table(shard, config, values))
    parts = {}
    for start in range(0, len(tables), shards_per_part):
        sink = io.BytesIO()
        repeated = [path for path in leaf_names(tables[0].schema) if path != "url"]
        with pq.ParquetWriter(sink, tables[0].schema, compression="zstd", use_dictionary=repeated) as writer:
            for table in tables[start : start + shards_per_part]:
                writer.write_table(table, row_group_size=table.num_rows)
        parts[part_path(start // shards_per_part)] = sink.getvalue()
    return parts


def leaf_names(schema):
    """Paths of the leaves of a schema, as Parquet itself has them."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.ParquetFile(sink).schema
    return [leaves.column(number).path for number in range(len(leaves))]


def check_index(tmp_path, monkeypatch, shards_per_part=3, **settings):
    """Build an index, and compare it with that made row by row; returns its rows."""
    monkeypatch.setattr(cut, "SHARDS_PER_PART", shards_per_part)
    monkeypatch.setattr("capfilt.stages.manifest.index.SHARDS_PER_PART", shards_per_part)
    config = ManifestConfig(**{"manifest": str(tmp_path / "*.parquet"), "shard_size": 4} | settings)
    store = Store(str(tmp_path / "index"))
    index = build_index(config, store, source="web")
    expected = parts_by_row(config, shards_per_part)
    assert {f"parts/{name}": store.read(f"parts/{name}") for name in store.list("parts")} == expected
    rows = [row for data in expected.values() for row in pq.read_table(io.BytesIO(data)).to_pylist()]
    assert index.rows == len(rows)
    assert index.texts == sum(len(row["texts"]) for row in rows)
    return rows


URLS = {
    "string": strings("u1", None, "", INVALID, "é", "u6"),
    "large_string": pa.array(["u1", None, "", "x", "é", "u6"], pa.large_string()),
    "dictionary": pa.array(["u1", None, "u1", "", "u2", "u1"]).dictionary_encode(),
    "bytes": pa.array([b"u1", None, b"", INVALID, b"u5", b"u6"]),
    "fixed": pa.array([b"u1", None, b"u3", b"u4", b"\xff\xff", b"u6"], pa.binary(2)),
    "numbers": pa.array([1, None, 3, 4, 5, 6]),
}
CAPTIONS = {
    "strings": strings("a", None, "", INVALID, "d", "e"),
    "lists": pa.array([["a", None, ""], [], None, ["b"], [None], ["c", "d"]]),
    "large_lists": pa.array([["a"], [], None, ["é", "b"], [None], ["c"]], pa.large_list(pa.large_string())),
    "fixed_lists": pa.array(
        [["a", "b"], None, ["c", None], ["d", ""], ["e", "f"], ["g", "h"]], pa.list_(pa.string(), 2)
    ),
    "bytes_in_lists": pa.array([[b"a", INVALID], None, [b""], [None], [], [b"b"]]),
    "objects": pa.array([{"text": "a"}, None, {"text": None}, {"text": "b"}, {"text": ""}, {"text": "c"}]),
    "lists_of_objects": pa.array([[{"raw": "a"}, None], [], None, [{"raw": None}], [{"raw": "b"}], []]),
    "numbers": pa.array([1.5, None, float("nan"), 2.0, 3.0, 4.0]),
    "lists_of_numbers": pa.array([[1], None, [], [2, 3], [4], [5]]),
    "nothing": pa.nulls(6),
    "dates": pa.array([0, None, 1, 2, 3, 4], pa.date32()),
}
TRUTHS = {
    "strings": strings("clean", None, "mismatch", INVALID, "clean", None),
    "empty": strings("clean", "", None, "b", "", "c"),
    "numbers": pa.array([1, None, 0, 2, 3, 4]),
    "nothing": pa.nulls(6),
}


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("caption", CAPTIONS)
def test_urls_and_captions_of_every_type(tmp_path, monkeypatch, url, caption):
    table = pa.table({"note": list("abcdef"), "caption": CAPTIONS[caption], "URL": URLS[url]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    check_index(tmp_path, monkeypatch)


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("keep", [(), "all", ("score",)])
def test_truths_and_carried_columns(tmp_path, monkeypatch, truth, keep):
    columns = {"url": URLS["string"], "text": CAPTIONS["lists"], "truth": TRUTHS[truth]}
    columns["score"] = pa.array([1, None, 3, 4, 5, 6], pa.int32())
    columns["kind"] = pa.array(["x", "y", "x", None, "y", "x"]).dictionary_encode()
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=4)
    columns["score"] = pa.array([1, None, 3, 4, 5, 6], pa.int64())
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    rows = check_index(tmp_path, monkeypatch, truth_column="truth", keep_columns=keep)
    assert keep == () or [row["carried"]["score"] for row in rows] == [1, None, 3, 4, 5, 6] * 2


def test_only_values_that_repeat_have_a_dictionary(tmp_path):
    columns = {"url": URLS["string"], "text": CAPTIONS["lists"], "truth": TRUTHS["strings"]}
    columns["score"] = pa.array([1.0, 1, 1, 1, 1, 1])
    columns["tags"] = pa.array([["a", "b"]] * 6)
    columns["size"] = pa.array([{"w": 1, "names": ["x"]}] * 6)
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    store = Store(str(tmp_path / "index"))
    config = ManifestConfig(manifest=str(tmp_path / "a.parquet"), truth_column="truth", keep_columns="all")
    build_index(config, store, source="web")
    group = pq.read_metadata(tmp_path / "index" / part_path(0)).row_group(0)
    leaves = [group.column(number) for number in range(group.num_columns)]
    with_dictionary = [leaf.path_in_schema for leaf in leaves if "RLE_DICTIONARY" in leaf.encodings]
    plain = [leaf.path_in_schema for leaf in leaves if leaf.path_in_schema not in with_dictionary]
    assert plain == ["url"]
    assert {
        "texts.list.element",
        "truth",
        "carried.tags.list.element",
        "carried.size.names.list.element",
    } <= set(with_dictionary)


def test_hashes_and_captions_from_elsewhere(tmp_path, monkeypatch):
    columns = {"url": URLS["string"], "caption": CAPTIONS["lists"], "re": CAPTIONS["strings"]}
    columns["sha"] = pa.array(["A" * 64, None, "b" * 64, "", "c" * 64, "d" * 32])
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = check_index(tmp_path, monkeypatch, hash_column="sha", synthetic_columns={"recap": "re"})
    assert rows[0]["expected_hash"] == "a" * 64
    assert rows[0]["synthetic"] == [{"captioner": "recap", "text": "a"}]


@pytest.mark.parametrize("path", [strings("p1", None, "", INVALID, "p5", "p6"), None])
def test_embedded_images_are_not_read(tmp_path, monkeypatch, path):
    images = [b"\xff\xd8" + bytes(1000)] * 6
    column = pa.array(images)
    if path is not None:
        column = pa.StructArray.from_arrays([column, path], names=["bytes", "path"])
    pq.write_table(pa.table({"image": column, "caption": CAPTIONS["strings"]}), tmp_path / "a.parquet")
    read = []
    batches = parquet.pq.ParquetFile.iter_batches

    def iter_batches(self, *words, columns, **more):
        for batch in batches(self, *words, columns=columns, **more):
            read.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(parquet.pq.ParquetFile, "iter_batches", iter_batches)
    check_index(tmp_path, monkeypatch)
    one_to_see_what_it_is = sorted(read)[-1]
    assert sum(read) - one_to_see_what_it_is * 2 < 1000


def test_parts_begin_in_the_middle_of_files_and_row_groups(tmp_path, monkeypatch):
    number = 0
    for name, rows, group in (("a", 50, 7), ("b", 0, 1), ("c", 1, 1), ("d", 301, 100)):
        urls = [f"u{number + i}" for i in range(rows)]
        table = pa.table({"url": pa.array(urls, pa.string()), "caption": pa.array(urls, pa.string())})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=group)
        number += rows
    rows = check_index(tmp_path, monkeypatch)
    assert [row["url"] for row in rows] == [f"u{i}" for i in range(352)]
    assert len(Store(str(tmp_path / "index")).list("parts")) == 30  # 352 rows, 4 in a shard, 3 shards a file


def test_parts_that_another_cut_has_left_are_removed(tmp_path, monkeypatch):
    (tmp_path / "index/parts").mkdir(parents=True)
    for number in (0, 7):
        (tmp_path / f"index/parts/0000{number}.parquet").write_bytes(b"of another manifest")
    pq.write_table(pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "a.parquet")
    check_index(tmp_path, monkeypatch)
    assert Store(str(tmp_path / "index")).list("parts") == ["00000.parquet"]


@pytest.mark.parametrize("limit", [8, 9])
def test_the_shard_whose_texts_are_too_long_is_refused_with_the_number_of_its_rows(
    tmp_path, monkeypatch, limit
):
    pq.write_table(pa.table({"url": ["é", "u2", "u3"], "caption": ["a", "bc", "d"]}), tmp_path / "a.parquet")
    monkeypatch.setattr(cut, "TEXT_LIMIT", limit)
    if limit == 9:
        assert len(check_index(tmp_path, monkeypatch)) == 3
        return
    with pytest.raises(
        ManifestError, match=r"shard_size: 3 rows of .*a\.parquet have more than 8 characters"
    ):
        check_index(tmp_path, monkeypatch)


def read_csv(data, read):
    """The rows of a CSV file, or the error."""
    MEMORY.pipe_file("/whole/list.csv", data)
    config = ManifestConfig(
        manifest="memory://whole/list.csv", truth_column="kind" if b"kind" in data else None
    )
    (file,) = find_files(config, SECTION)
    try:
        return read(file, config)
    except ManifestError as error:
        return str(error)


def by_row(file, config):
    return [(row["url"], row["texts"], row["truth"]) for row in read_rows(file, config, SECTION)]


def by_table(file, config):
    rows = []
    with cut.explain_errors(file, SECTION, config):
        for table in read_csv_tables(file, ColumnReader(config), SECTION):
            rows += [(row["url"], row["texts"], row["truth"]) for row in table.to_pylist()]
    return rows


@numbers_of_cases
def test_csv_files_of_any_content(count, monkeypatch):
    for rng in draws("csv at once", count):
        monkeypatch.setattr(text, "LINES_CHUNK", rng.choice([1, 2, 7, 50, 1000]))
        end = rng.choice(["\n", "\r\n", "\r"])
        kind = rng.random()
        if kind < 0.4:
            data = to_csv(records(rng), end=end)
        elif kind < 0.7:
            data = damage(rng, to_csv(records(rng, random_text), end=end))
        else:
            data = ("url,caption,kind\n" + phrase(rng, TOKENS)).encode()
        assert read_csv(data, by_table) == read_csv(data, by_row), data


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_lines_are_cut_as_a_file_cuts_them(monkeypatch, chunk):
    monkeypatch.setattr(text, "LINES_CHUNK", chunk)
    for data in ("", "\n", "a", "a\r\nb\rc\n\nd", "\r\r\n\r", "a\u2028b\x85c\x0bd\ne\r"):
        lines = text.LineBlocks(io.StringIO(data, newline=""))
        found = []
        while block := lines.take():
            found += block
        assert found == list(io.StringIO(data, newline=""))


def test_long_lines_are_none_wherever_a_chunk_ends(monkeypatch):
    monkeypatch.setattr(text, "LINE_LIMIT", 10)
    for chunk in range(1, 40):
        monkeypatch.setattr(text, "LINES_CHUNK", chunk)
        for data in (
            "a\n" + "x" * 9 + "\nb\n",
            "a\n" + "x" * 10 + "\nb\n",
            "x" * 30 + "\nb",
            "a\n" + "x" * 30,
        ):
            expected = list(text.bounded_lines(io.StringIO(data, newline="")))
            assert list(text.LineBlocks(io.StringIO(data, newline=""))) == expected, (chunk, data)


def test_a_tar_between_rows_leaves_their_carried_values_to_their_shards(tmp_path):
    head = "url,caption,score\n"
    (tmp_path / "a.csv").write_text(head + "u1,a,1\nu2,b,2\nu3,c,3\n")
    with tarfile.open(tmp_path / "b.tar", "w"):
        pass
    (tmp_path / "c.csv").write_text(head + "u4,d,4\n")
    names = tuple(str(tmp_path / name) for name in ("a.csv", "b.tar", "c.csv"))
    config = ManifestConfig(
        manifest=names, shard_size=2, keep_columns=("score",), column_types={"score": "int64"}
    )
    store = Store(str(tmp_path / "index"))
    index = build_index(config, store, source="web")
    shards = [read_shard(store, shard) for shard in range(index.shards)]
    assert [shard["url"].to_pylist() for shard in shards] == [["u1", "u2"], [None], ["u3", "u4"]]
    carried = [[row and row["score"] for row in shard["carried"].to_pylist()] for shard in shards]
    assert carried == [[1, 2], [None], [3, 4]]
