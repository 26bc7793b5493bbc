"""Parsers of manifest files: rows or a `ManifestError` of one line, whatever the bytes are; well-formed files
give what an independent reader finds in them."""

import csv
import io
import json

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.files import ManifestFile
from capfilt.stages.manifest.records import read_rows
from tests.properties import damage, draws, numbers_of_cases, phrase, text

MEMORY = fsspec.filesystem("memory")
TOKENS = (
    "url",
    "caption",
    ",",
    "\t",
    ";",
    '"',
    '""',
    "\n",
    "\r\n",
    "http://a.test/1.jpg",
    "a dog",
    "\ufeff",
    "null",
)
TOKENS += (
    '{"url": "u", "caption": "c"}',
    "{",
    "}",
    "[",
    "]",
    ":",
    '"url":',
    "1e999",
    "\\u00",
    "NaN",
    "-",
    "\0",
)


def read(data, format_, **settings):
    """(url, texts) of every row of a manifest with this content."""
    path = f"/properties/list.{format_}"
    MEMORY.pipe_file(path, data)
    config = ManifestConfig(manifest=path, **settings)
    rows = read_rows(ManifestFile(MEMORY, path, format_, ()), config, "sources.web.rows")
    return [(row["url"], row["texts"]) for row in rows]


def records(rng, draw=text):
    """Up to eight rows of a url and a caption."""
    return [(f"http://a.test/{n}", draw(rng)) for n in range(rng.randrange(1, 9))]


def to_csv(rows, quoting=csv.QUOTE_MINIMAL, end="\r\n"):
    sink = io.StringIO()
    csv.writer(sink, quoting=quoting, lineterminator=end).writerows([("url", "caption"), *rows])
    return sink.getvalue().encode()


def to_tsv(rows):
    return "".join(f"{url}\t{caption}\n" for url, caption in [("url", "caption"), *rows]).encode()


def objects(rows):
    return [{"url": url, "caption": caption} for url, caption in rows]


def to_jsonl(rows):
    return "\n".join(json.dumps(each) for each in objects(rows)).encode()


def to_json(rows):
    return json.dumps(
        objects(rows), indent=None if len(rows) % 2 else 1, ensure_ascii=len(rows) % 3 == 0
    ).encode()


def to_parquet(rows):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(objects(rows)), sink, row_group_size=3, compression="zstd")
    return sink.getvalue()


def to_txt(rows):
    return "".join(f"{url}\n" for url, _ in rows).encode()


WRITERS = {
    "csv": to_csv,
    "tsv": to_tsv,
    "jsonl": to_jsonl,
    "json": to_json,
    "parquet": to_parquet,
    "txt": to_txt,
}


@numbers_of_cases
@pytest.mark.parametrize("format_", WRITERS)
def test_any_bytes_are_rows_or_one_line(format_, count):
    for rng in draws(f"any {format_}", count):
        data = damage(rng, WRITERS[format_](records(rng, words)))
        if format_ != "parquet" and rng.random() < 0.4:
            data = phrase(rng, TOKENS, 20).encode("utf-16" if rng.random() < 0.1 else "utf-8")
        try:
            rows = read(data, format_)
        except ManifestError as error:
            assert "\n" not in str(error) and str(error).startswith("sources.web.rows"), data
            continue
        for url, texts in rows:
            assert url is None or isinstance(url, str)
            assert all(isinstance(each, str) for each in texts)


def words(rng):
    return " ".join(rng.choice(("a", "dog", "naïve", "名", "3")) for _ in range(rng.randrange(1, 5)))


@numbers_of_cases
def test_csv_is_what_pyarrow_reads(count):
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    types = pyarrow.csv.ConvertOptions(
        column_types={"url": pa.string(), "caption": pa.string()}, strings_can_be_null=False
    )
    for rng in draws("csv", count):
        rows = [(url, caption.replace("\0", "")) for url, caption in records(rng)]
        data = to_csv(rows, csv.QUOTE_ALL, rng.choice(["\n", "\r\n"]))
        oracle = pyarrow.csv.read_csv(
            io.BytesIO(data), parse_options=options, convert_options=types
        ).to_pylist()
        assert [(row["url"], row["caption"]) for row in oracle] == rows
        found = read(data, "csv")
        assert [url for url, _ in found] == [url for url, _ in rows]
        check_texts(found, rows)
        check_texts(read(to_csv(rows), "csv"), rows)


@numbers_of_cases
def test_tsv_is_split_at_tabs(count):
    for rng in draws("tsv", count):
        rows = [(url, plain(rng)) for url, _ in records(rng)]
        check_texts(read(to_tsv(rows), "tsv"), rows)


def plain(rng):
    """A caption as TSV can hold it: without tabs and ends of lines, not quoted."""
    return "a" + text(rng).translate(dict.fromkeys(map(ord, "\t\n\r\0")))


@numbers_of_cases
@pytest.mark.parametrize("format_", ["jsonl", "json", "parquet"])
def test_records_are_what_was_written(format_, count):
    for rng in draws(format_, count):
        rows = records(rng)
        data = WRITERS[format_](rows)
        if format_ == "jsonl":
            assert [json.loads(line) for line in data.decode().split("\n")] == objects(rows)
        elif format_ == "json":
            assert json.loads(data) == objects(rows)
        else:
            assert pq.read_table(io.BytesIO(data)).to_pylist() == objects(rows)
        found = read(data, format_)
        assert [url for url, _ in found] == [url for url, _ in rows]
        check_texts(found, rows)


def check_texts(found, rows):
    assert [texts for _, texts in found] == [[caption] for _, caption in rows]


@numbers_of_cases
def test_names_of_columns_are_found_whatever_their_case_and_spaces(count):
    for rng in draws("columns", count):
        names = ["".join(rng.choice((c.lower(), c.upper())) for c in name) for name in ("url", "caption")]
        names = [" " * rng.randrange(3) + name + " " * rng.randrange(3) for name in names]
        others = [f"x{n}" for n in range(rng.randrange(4))]
        order = [*names, *others]
        rng.shuffle(order)
        values = dict.fromkeys(others, "x") | {names[0]: "http://a.test/", names[1]: "a dog"}
        data = json.dumps({name: values[name] for name in order}).encode()
        assert read(data, "jsonl") == [("http://a.test/", ["a dog"])]
