"""Rows, samples and columns of a source before a run."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.preflight import rows as module
from capfilt.pipeline.preflight.check import SourceCheck, place_images
from capfilt.pipeline.preflight.page import _source_lines
from capfilt.pipeline.preflight.rows import SampleRow, look_at_rows
from capfilt.stages.manifest.config import ManifestError
from tests.stages.shards.test_odd_tars import make_tar


def look(manifest, *, rows=None, **source):
    section = {"kind": "web", "rows": {"manifest": str(manifest), **(rows or {})}, **source}
    config = parse_config({"run": {"dir": "r"}, "sources": {"web": section}}, "test")
    made = config.sources["web"]
    return look_at_rows(made, place_images(made, config), "sources.web.rows")


def test_rows_columns_and_samples_of_a_small_file_are_exact(tmp_path):
    path = tmp_path / "urls.csv"
    lines = [f"https://h{i}.example/{i}.jpg,text {i},{i}" for i in range(4)]
    path.write_text("\n".join(["URL, Caption ,width", *lines, ""]))
    found, urls = look(path)
    assert (found.rows, found.estimated, found.files, found.bytes) == (4, False, 1, path.stat().st_size)
    assert {role: name.strip() for role, name in found.used.items()} == {"url": "URL", "caption": "Caption"}
    assert found.unused == ["width"]
    assert found.samples == [SampleRow(f"https://h{i}.example/{i}.jpg", [f"text {i}"]) for i in range(3)]
    assert len(urls) == 4


def test_rows_that_will_fail_are_shown_with_the_cause(tmp_path):
    path = tmp_path / "urls.jsonl"
    urls = ["ftp://b.example/1.jpg", "relative.jpg", "https://ok.example/a b.jpg"]
    path.write_text("".join(json.dumps({"url": url, "caption": ["x", "y"]}) + "\n" for url in urls))
    found, _ = look(path)
    first, second, third = found.samples
    assert first.problem.startswith("bad_url: ") and second.problem.startswith("bad_url: relative url")
    assert third.problem is None and third.texts == ["x", "y"]


def test_relative_urls_are_shown_at_their_place(tmp_path):
    path = tmp_path / "urls.csv"
    path.write_text("url,caption\na.jpg,x\n../b.jpg,x\n")
    found, _ = look(path, images=str(tmp_path / "images"))
    assert found.samples[0] == SampleRow(f"{tmp_path}/images/a.jpg", ["x"])
    assert "outside the image folder" in found.samples[1].problem
    found, _ = look(path, base_url="https://host.example/base")
    assert found.samples[0].image == "https://host.example/base/a.jpg"


def write_parquet(path, rows):
    pq.write_table(
        pa.table({"url": [f"https://h.example/{i}" for i in range(rows)], "text": ["t"] * rows}), path
    )


def test_rows_of_parquet_files_are_those_of_their_footers(tmp_path, monkeypatch):
    for number, rows in enumerate((10, 20, 30)):
        write_parquet(tmp_path / f"{number}.parquet", rows)
    found, urls = look(tmp_path)
    assert (found.rows, found.estimated, found.files) == (60, False, 3)
    assert len(urls) == 60
    monkeypatch.setattr(module, "COUNTED_FOOTERS", 2)  # the first and the last
    found, _ = look(tmp_path)
    assert (found.rows, found.estimated) == (60, True)


@pytest.mark.parametrize("compressed", [False, True])
def test_rows_of_a_large_text_file_are_estimated(tmp_path, monkeypatch, compressed):
    path = tmp_path / ("urls.tsv.gz" if compressed else "urls.tsv")
    text = "url\tcaption\n" + "".join(f"https://h.example/{i:06d}.jpg\ttext\n" for i in range(5000))
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    monkeypatch.setattr(module, "COUNTED_BYTES", path.stat().st_size - 1)
    monkeypatch.setattr(module, "PIECE", path.stat().st_size // 4)
    found, urls = look(path)
    assert found.estimated and 4000 < found.rows < 6500
    assert len(urls) == module.HOST_ROWS
    monkeypatch.setattr(module, "COUNTED_BYTES", path.stat().st_size)
    found, _ = look(path)
    assert (found.rows, found.estimated) == (5000, False)


def test_rows_of_a_large_document_are_unknown(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"image": "a.jpg", "caption": "x"}]))
    monkeypatch.setattr(module, "COUNTED_BYTES", 1)
    found, _ = look(path)
    assert (found.rows, found.estimated) == (None, False) and len(found.samples) == 1


def test_samples_of_an_image_tar(tmp_path):
    members = [("a.jpg", b"i"), ("a.txt", b"a dog"), ("b.jpg", b"i"), ("b.json", b'{"url": "https://h/b"}')]
    (tmp_path / "0.tar").write_bytes(make_tar(*members))
    found, urls = look(tmp_path / "0.tar")
    assert (found.rows, found.tars, found.files, urls) == (None, 1, 1, [])
    first, second = found.samples
    assert first.image.endswith("0.tar#a") and first.texts == ["a dog"]
    assert (second.image, second.texts) == ("https://h/b", []) and found.lack is None


def test_a_tar_without_texts_is_said_with_what_it_has(tmp_path):
    members = [
        (f"{n}.{kind}", data) for n in range(4) for kind, data in (("jpg", b"i"), ("json", b'{"a": 1}'))
    ]
    (tmp_path / "0.tar").write_bytes(make_tar(*members))
    found, _ = look(tmp_path / "0.tar")
    assert len(found.samples) == 3
    assert found.lack.startswith(
        f"none of the first 4 samples has a text: the members of file://{tmp_path}/0.tar"
    )
    assert (
        "its JSON has the keys a; texts are" in found.lack
        and "set sources.web.rows.caption_col" in found.lack
    )
    lines = _source_lines(SourceCheck("web", found))
    assert all(len(line) <= 46 for line in lines[-8:]) and "NO TEXTS: none of the first" in " ".join(lines)
    assert look(tmp_path / "0.tar", rows={"caption_column": "none"})[0].lack is None


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(ManifestError, match=r"^sources\.web\.rows\.manifest: no file at "):
        look(tmp_path / "none.csv")
