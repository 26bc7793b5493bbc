"""Files of manifests with odd names, delimiters, quotes, encodings and contents; and hostile ones."""

import csv
import lzma
import os

import pytest

from capfilt.stages.manifest import cut, delimited, text
from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.files import find_files
from capfilt.stages.manifest.index import build_index, read_shard
from capfilt.stages.storage.store import Store

TEXT = "url,caption\nu1,one\nu2,two\n"
PAIRS = [("u1", ["one"]), ("u2", ["two"])]


def read_pairs(tmp_path, manifest, **config):
    store = Store(str(tmp_path / "index"))
    made = build_index(ManifestConfig(manifest=str(manifest), **config), store, source="web")
    rows = [row for s in range(made.shards) for row in read_shard(store, s).to_pylist()]
    return [(row["url"], row["texts"]) for row in rows]


def names(pattern):
    return [os.path.basename(f.path) for f in find_files(ManifestConfig(manifest=str(pattern)), "s")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", TEXT.replace(",", ";").encode()),
        ("a.csv", TEXT.replace(",", "\t").encode()),
        ("a.csv", TEXT.encode("utf-16")),
        ("a.csv", b"\n\r\n" + TEXT.encode()),
        ("a.csv", b'url, caption\nu1, "one"\nu2, two\n'),
        ("a.tsv", TEXT.replace(",", "\t").encode("utf-16")),
        ("a.json", b'{"url": "u1", "caption": "one"}\n\n{"url": "u2", "caption": "two"}\n'),
        ("urls [v1].csv", TEXT.encode()),
        ("what?.csv", TEXT.encode()),
        ("a{00..01}.csv", TEXT.encode()),
    ],
)
def test_odd_but_readable_files(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    assert read_pairs(tmp_path, tmp_path / name) == PAIRS


def test_compression_is_recognized_by_the_content(tmp_path):
    (tmp_path / "a.csv.xz").write_bytes(lzma.compress(TEXT.encode()))
    assert read_pairs(tmp_path, tmp_path / "a.csv.xz", format="csv") == PAIRS


def test_a_tsv_with_quotes_is_read_as_csv(tmp_path):
    with (tmp_path / "a.tsv").open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerows([("url", "caption"), ("u1", "two\nlines"), ("u2", '12" wide')])
    with pytest.raises(ManifestError, match=r"lines 2 and 3 are one row .* set rows.format: csv"):
        read_pairs(tmp_path, tmp_path / "a.tsv")
    assert read_pairs(tmp_path, tmp_path / "a.tsv", format="csv") == [
        ("u1", ["two\nlines"]),
        ("u2", ['12" wide']),
    ]


@pytest.mark.parametrize(
    "rows",
    ['u1,"one\nu2,two\n', 'u1,one\nu2,"two\n', 'u1,one\nu2,"two', 'u1,"one\nu2,two\nu3,"three"\nu4,four\n'],
)
def test_a_quote_that_is_not_closed_is_an_error_with_its_line(tmp_path, rows):
    line = 2 if rows.startswith('u1,"') else 3
    (tmp_path / "a.csv").write_text("url,caption\n" + rows)
    with pytest.raises(ManifestError, match=rf"a\.csv as csv \(line {line}: a quote that is opened"):
        read_pairs(tmp_path, tmp_path / "a.csv")


def test_quoted_lines_and_stray_quotes_in_a_line_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('url,caption\nu1,"a\nb"\nu2,"c"d\nu3,"last\nline"')
    assert read_pairs(tmp_path, tmp_path / "a.csv") == [
        ("u1", ["a\nb"]),
        ("u2", ["cd"]),
        ("u3", ["last\nline"]),
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.tsv", b"one\thttp://a/1\ntwo\thttp://a/2\n", r"s\.columns, e\.g\. \[caption, url\]"),
        ("a.csv", b"PAR1....", "it is a Parquet file"),
        ("a.csv", b"PK\x03\x04..", "it is a zip archive"),
        ("a.csv", TEXT.encode("utf-16-le"), "save it as UTF-8"),
        ("a.csv", TEXT.encode("utf-32"), "save it as UTF-8"),
        ("a.csv.gz", TEXT.encode(), "not compressed by gzip"),
        ("a.json", b'{"url": {"0": "a"}}', "a JSON object needs"),
        ("a.json", b'{"images": 5, "annotations": [{}]}', "annotations of an unknown form"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_unusable_files_are_refused_with_what_they_are(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError, match=message.replace("s\\.", "sources.web.rows.", 1)) as error:
        read_pairs(tmp_path, tmp_path / name)
    assert "\n" not in str(error.value)


def test_hidden_files_are_left_out(tmp_path):
    for name in ("a.csv", "._a.csv", "_temporary/0/a.csv", ".cache/b.csv", "_b.csv", "sub/c.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(TEXT)
    assert names(tmp_path) == ["a.csv", "c.csv"]
    assert names(tmp_path / "*.csv") == ["_b.csv", "a.csv"]
    assert names(tmp_path / "**/*.csv") == ["_b.csv", "a.csv", "c.csv"]
    assert names(tmp_path / "_temporary/0") == ["a.csv"]
    assert names(tmp_path / "._*.csv") == ["._a.csv"]
    with pytest.raises(ManifestError, match=r"it has 1 files, all of them hidden"):
        (tmp_path / "h").mkdir()
        (tmp_path / "h/_a.csv").write_text(TEXT)
        names(tmp_path / "h")


def test_files_beside_tars_are_not_read_again(tmp_path):
    for name in ("0.tar", "0.parquet", "0_stats.json", "1.parquet", "0.csv"):
        (tmp_path / name).write_bytes(b"")
    assert names(tmp_path) == ["0.csv", "0.tar", "1.parquet"]
    assert names(tmp_path / "*") == ["0.csv", "0.tar", "1.parquet"]
    assert names(tmp_path / "0.parquet") == ["0.parquet"]


def test_ranges_name_their_files(tmp_path):
    for number in range(4):
        (tmp_path / f"a-{number:05d}.csv").write_text(TEXT)
    assert names(tmp_path / "a-{00001..00003}.csv") == [f"a-0000{number}.csv" for number in (1, 2, 3)]
    with pytest.raises(ManifestError, match=r"no file .*a-00004\.csv of the range"):
        names(tmp_path / "a-{00003..00005}.csv")
    with pytest.raises(ManifestError, match="allowed: 1 to 1,000,000"):
        names(tmp_path / "a-{3..1}.csv")


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_text(TEXT)
    assert names("~/a.csv") == ["a.csv"]


def test_a_folder_of_images_and_a_pipe_are_no_manifests(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"none of them a manifest: 1 \.jpg; .* set `images` to"):
        names(tmp_path / "images")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ManifestError, match="no file at"):
        names(tmp_path / "pipe.csv")


def test_a_deep_line_of_json_is_a_bad_row(tmp_path):
    deep = '{"url": ' + "[" * 100_000
    (tmp_path / "a.jsonl").write_text(f'{{"url": "u1", "caption": "one"}}\n{deep}\n{{"url": "u2"}}\n')
    assert read_pairs(tmp_path, tmp_path / "a.jsonl") == [("u1", ["one"]), (None, []), ("u2", [])]


@pytest.mark.parametrize("format_", ["jsonl", "tsv", "txt"])
def test_a_line_that_fills_the_memory_is_a_bad_row(tmp_path, monkeypatch, format_):
    monkeypatch.setattr(text, "LINE_LIMIT", 1000)
    row, head = {"jsonl": ('{"url": "u"}', ""), "tsv": ("u", "url\n"), "txt": ("u", "")}[format_]
    (tmp_path / f"a.{format_}").write_text(f"{head}{row}\n{'x' * 5000}\n{row}\n")
    assert [url for url, _ in read_pairs(tmp_path, tmp_path / f"a.{format_}")] in (
        ["u", None, "u"],
        ["u", "", "u"],
    )


def test_a_long_csv_line_and_a_shard_of_long_texts_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(TEXT + "u3," + "x" * 5000 + "\n")
    monkeypatch.setattr(cut, "TEXT_LIMIT", 4000)
    with pytest.raises(ManifestError, match=r"sources\.web\.rows\.shard_size: 3 rows of .* set a smaller"):
        read_pairs(tmp_path, tmp_path / "a.csv")
    monkeypatch.setattr(text, "LINE_LIMIT", 1000)
    monkeypatch.setattr(delimited, "LINE_LIMIT", 1000)
    with pytest.raises(ManifestError, match="line 4 is longer than 1,000 characters"):
        read_pairs(tmp_path, tmp_path / "a.csv")
