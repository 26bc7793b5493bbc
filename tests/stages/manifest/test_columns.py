"""Columns of manifests: names per record, values with texts, and sources without texts."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.stages.manifest.columns import choose_columns
from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.index import build_index, check_manifest, read_shard, texts_notice
from capfilt.stages.storage.store import Store


def write_jsonl(folder, *records):
    path = folder / "list.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def read_index(tmp_path, **config):
    store = Store(str(tmp_path / "index"))
    index = build_index(ManifestConfig(**config), store, source="web")
    return index, [row for s in range(index.shards) for row in read_shard(store, s).to_pylist()]


def test_names_are_matched_in_every_record(tmp_path):
    records = [{"url": "0"}, {"URL ": "1", " Caption": "one"}, {"url": "2", "captions": ["a", "b"]}]
    records += [{"url": "3", "caption": [{"text": "c"}, {"raw": "d"}, {"x": 1}]}, {"url": "4", "TEXT": "e"}]
    index, rows = read_index(tmp_path, manifest=write_jsonl(tmp_path, *records))
    assert [row["url"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["texts"] for row in rows] == [[], ["one"], ["a", "b"], ["c", "d"], ["e"]]
    assert index.texts == 6


@pytest.mark.parametrize("given", ["Link", " link", "LINK"])
def test_given_names_are_stripped_and_folded_too(given):
    config = ManifestConfig(url_column=given, caption_column="alt")
    assert choose_columns(["url", "Link ", "Alt"], config)[:2] == ("Link ", "Alt")


def test_an_exact_name_comes_before_a_folded_one():
    config = ManifestConfig(url_column="URL")
    assert choose_columns(["url", "URL"], config).url == "URL"


@pytest.mark.parametrize("name", ["none", "None"])
def test_a_source_without_texts_is_refused_unless_that_is_meant(tmp_path, name):
    path = write_jsonl(tmp_path, {"url": "a", "label": 3})
    with pytest.raises(ManifestError) as error:
        check_manifest(ManifestConfig(manifest=path), "sources.web.rows", with_texts=True)
    line = str(error.value)
    assert line.startswith("sources.web.rows.caption_column: no column of texts in ")
    assert "it has url, label; set sources.web.rows.caption_column" in line and "none" in line
    meant = ManifestConfig(manifest=path, caption_column=name)
    check_manifest(meant, "sources.web.rows", with_texts=True)
    index, rows = read_index(tmp_path, manifest=path, caption_column=name)
    assert [row["texts"] for row in rows] == [[]] and texts_notice(index, meant, "web") is None


def test_a_column_without_any_text_is_said(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"url": ["a", "b"], "caption": [1, 2]}), path)
    index, _ = read_index(tmp_path, manifest=path)
    notice = texts_notice(index, ManifestConfig(manifest=path), "web")
    assert notice is not None and "none of 2 rows has a text; its columns are url, caption" in notice
    assert "sources.web.rows.caption_column" in notice


@pytest.mark.parametrize("value", [7, 0, 1.5, True, [3, 4]])
@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_a_column_of_numbers_is_refused_with_its_name(tmp_path, value, format_):
    rows = [{"url": "a", "Caption": value}, {"url": "b", "Caption": None}]
    path = write_jsonl(tmp_path, *rows)
    if format_ == "parquet":
        path = str(tmp_path / "a.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
    config = ManifestConfig(manifest=path)
    with pytest.raises(
        ManifestError, match=r"column 'Caption' has numbers, which are no texts, in .*or to none"
    ):
        check_manifest(config, "sources.web.rows", with_texts=True)
    check_manifest(ManifestConfig(manifest=path, caption_column="none"), "sources.web.rows", with_texts=True)


@pytest.mark.parametrize("value", [None, float("nan"), "7"])
def test_missing_texts_and_digits_are_no_numbers(tmp_path, value):
    path = write_jsonl(tmp_path, {"url": "a", "caption": value})
    check_manifest(ManifestConfig(manifest=path), "sources.web.rows", with_texts=True)


def test_numbers_of_a_csv_are_texts(tmp_path):
    (tmp_path / "a.csv").write_text("url,caption\na,7\n")
    config = ManifestConfig(manifest=str(tmp_path / "a.csv"))
    check_manifest(config, "sources.web.rows", with_texts=True)
    _, rows = read_index(tmp_path, manifest=str(tmp_path / "a.csv"))
    assert [row["texts"] for row in rows] == [["7"]]


def test_a_url_column_that_only_later_records_have_is_found(tmp_path):
    path = write_jsonl(tmp_path, {"caption": "no url"}, {"url": "a", "caption": "b"})
    _, rows = read_index(tmp_path, manifest=path)
    assert [(row["url"], row["texts"]) for row in rows] == [(None, ["no url"]), ("a", ["b"])]


@pytest.mark.parametrize("type_", [pa.large_list(pa.string_view()), pa.list_(pa.string(), 2)])
def test_any_type_of_list_of_texts_is_read(tmp_path, type_):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"url": ["a"], "caption": pa.array([["b", "c"]], type_)}), path)
    assert read_index(tmp_path, manifest=path)[1][0]["texts"] == ["b", "c"]


def test_the_first_of_two_columns_with_one_name_is_read(tmp_path):
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["x"])], names=["url", "url"]), path)
    (tmp_path / "a.csv").write_text("url,caption,url\na,b,x\n")
    assert read_index(tmp_path / "1", manifest=path)[1][0]["url"] == "a"
    assert read_index(tmp_path / "2", manifest=str(tmp_path / "a.csv"))[1][0]["url"] == "a"
