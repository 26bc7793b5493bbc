"""The lists of the field in the forms in which they are handed out, and rows that nobody would want."""

import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.manifest import text as text_lists
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import ManifestError, build_index
from capfilt.stages.manifest.text import array_items
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.storage.store import Store

PAIRS = [
    ("http://a.test/1.jpg", "a dog"),
    ("http://b.test/2.jpg?x=1", 'said "no", twice'),
    ("c/3.jpg", "ein Bär"),
]


def read(folder: Path, **config: Any) -> pa.Table:
    """All rows as the pipeline reads them."""
    run = Store(str(folder / "run"))
    index = build_index(ManifestConfig(**config), run / "corpus/web/index", source="web")
    items = [{"source": "web", "shard": shard} for shard in range(index.shards)]
    table = Read(ReadConfig(run_dir=run))(pa.Table.from_pylist(items))
    assert table.num_rows == index.rows
    return table


def pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def lines(*columns: int) -> bytes:
    return "".join("\t".join(pair[c] for c in columns) + "\n" for pair in PAIRS).encode()


def named(url: str, caption: str, **more: Any) -> list[dict[str, Any]]:
    return [{url: u, caption: c, **more} for u, c in PAIRS]


LISTS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "CC3M": ("Train_GCC-training.tsv", lines(1, 0), {"columns": ("caption", "url")}),
    "CC12M": ("cc12m.tsv", lines(0, 1), {"columns": ("url", "caption")}),
    "SBU": (
        "sbu-captions-all.json",
        json.dumps({"image_urls": [u for u, _ in PAIRS], "captions": [c for _, c in PAIRS]}).encode(),
        {},
    ),
    "SBU as lines": ("sbu.jsonl", "\n".join(map(json.dumps, named("url", "caption"))).encode(), {}),
    "LAION": ("part-00000.parquet", parquet(named("URL", "TEXT", WIDTH=640, NSFW="UNLIKELY")), {}),
    "DataComp": ("0000.parquet", parquet(named("url", "text", uid="00", clip_b32_similarity_score=0.3)), {}),
    "img2dataset": ("00000.parquet", parquet(named("url", "caption", key="000", status="success")), {}),
    "BLIP's filtered lists": (
        "ccs_synthetic_filtered_large.json",
        json.dumps(named("url", "caption"), ensure_ascii=False).encode(),
        {},
    ),
    "the same, packed": (
        "laion_filtered.json.gz",
        gzip.compress(json.dumps(named("url", "caption")).encode()),
        {},
    ),
    "VG": ("vg_caption.json", json.dumps(named("image", "caption", dataset="vg")).encode(), {}),
    "other names": (
        "list.csv",
        b'alt;x,link\n"a dog",http://a.test/1.jpg\n"said ""no"", twice",http://b.test/2.jpg?x=1\n'
        + "ein Bär,c/3.jpg\n".encode(),
        {"url_column": "link", "caption_column": "alt;x"},
    ),
    "from a spreadsheet": (
        "list.csv.gz",
        gzip.compress(
            '\ufeffurl,caption\r\nhttp://a.test/1.jpg,a dog\r\nhttp://b.test/2.jpg?x=1,"said ""no"", twice"\r\n'
            "c/3.jpg,ein Bär\r\n".encode()
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_the_field(tmp_path: Path, name: str) -> None:
    file, data, config = LISTS[name]
    (tmp_path / file).write_bytes(data)
    assert pairs(read(tmp_path, manifest=str(tmp_path / file), **config)) == PAIRS


VISUAL_GENOME = [
    {
        "id": 7,
        "regions": [{"region_id": 1, "phrase": "a red door", "x": 0}, {"phrase": "a step"}, {"phrase": 3}],
    },
    {"id": 8, "regions": []},
    {"id": "x", "regions": [{"phrase": "no picture"}]},
    "nothing",
]


def test_visual_genome_as_it_is_handed_out(tmp_path: Path) -> None:
    (tmp_path / "region_descriptions.json").write_text(json.dumps(VISUAL_GENOME))
    table = read(tmp_path, manifest=str(tmp_path / "region_descriptions.json"))
    assert table["url"].to_pylist() == ["7.jpg", "8.jpg", None, None]
    assert table["texts"].to_pylist() == [["a red door", "a step"], [], ["no picture"], []]


@pytest.mark.parametrize("packed", [False, True])
def test_two_files_side_by_side_as_sbu_was_first_handed_out(tmp_path: Path, packed: bool) -> None:
    names = [f"SBU_captioned_photo_dataset_{part}.txt{'.gz' * packed}" for part in ("urls", "captions")]
    for name, column in zip(names, (0, 1), strict=True):
        data = lines(column)
        (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    assert pairs(read(tmp_path, manifest=str(tmp_path / names[0]))) == PAIRS


def test_bare_urls_have_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"http://a.test/1.jpg\n\n http://b.test/2.jpg \r\n")
    table = read(tmp_path, manifest=str(tmp_path / "list.txt"))
    assert pairs(table) == [("http://a.test/1.jpg", None), ("http://b.test/2.jpg", None)]
    assert table["texts"].to_pylist() == [[], []]


@pytest.mark.parametrize(
    "part, said", [("urls", "captions end after line 3"), ("captions", "urls end after line 3")]
)
def test_files_that_do_not_belong_together_line_by_line(tmp_path: Path, part: str, said: str) -> None:
    for name, column in (("urls", 0), ("captions", 1)):
        more = b"one more\n" if name == part else b""
        (tmp_path / f"x_{name}.txt").write_bytes(lines(column) + more)
    with pytest.raises(ManifestError, match=said):
        read(tmp_path, manifest=str(tmp_path / "x_urls.txt"))


def test_captions_that_changed_are_another_manifest(tmp_path: Path) -> None:
    for name, column in (("urls", 0), ("captions", 1)):
        (tmp_path / f"x_{name}.txt").write_bytes(lines(column))
    read(tmp_path, manifest=str(tmp_path / "x_urls.txt"))
    (tmp_path / "x_captions.txt").write_bytes(b"a\nb\nanother\n")
    with pytest.raises(ManifestError, match="has changed since this run cut it"):
        read(tmp_path, manifest=str(tmp_path / "x_urls.txt"))


def test_many_files_anywhere_in_the_order_of_their_names(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for number in (2, 0, 1):
        row = json.dumps({"url": f"http://a.test/{number}", "caption": str(number)})
        memory.pipe_file(f"/lists/{number}.jsonl", row.encode())
    memory.pipe_file("/lists/notes.txt", b"not a list")
    (tmp_path / "more.csv").write_text("url,caption\nhttp://a.test/9,9\n")
    for pattern in ("memory://lists/*.jsonl", "memory://lists"):
        folder = tmp_path / pattern[-2:].strip("*/")
        table = read(folder, manifest=(pattern, str(tmp_path / "more.csv")), shard_size=2)
        assert [caption for _, caption in pairs(table)] == ["0", "1", "2", "9"]


LONG = "word " * 400_000  # 2 MB
BAD = [  # url, text, status
    ("a.jpg", "first", "success"),
    ("", "no url", "bad_url"),
    ("a\0.jpg", "a NUL\0 in both", "bad_url"),
    ("a.jpg", LONG.strip(), "success"),
    (LONG.strip(), "a text in the place of the url", "bad_url"),
    ("b\udcff.jpg", "bytes \udcff that are no UTF-8", "missing_file"),
    ("a.jpg", "", "success"),
    ("a.jpg", "last", "success"),
]


def bad_list(form: str) -> bytes:
    """BAD in a form; the half surrogates stand for a byte 0xff."""
    if form == "csv":
        text = "url,caption\n" + "".join(f'"{url}","{caption}"\n' for url, caption, _ in BAD)
    elif form == "tsv":
        text = "url\tcaption\n" + "".join(f"{url}\t{caption}\n" for url, caption, _ in BAD)
    else:
        items = [json.dumps({"url": url, "caption": caption}, ensure_ascii=False) for url, caption, _ in BAD]
        text = "\n".join(items) if form == "jsonl" else f"[{', '.join(items)}]"
    return text.encode("utf-8", "surrogateescape")


def bad_parquet() -> bytes:
    columns = []
    for column in zip(*((url, caption) for url, caption, _ in BAD), strict=True):
        raw = [value.encode("utf-8", "surrogateescape") for value in column]
        columns.append(pa.array(raw, pa.binary()).view(pa.string()))  # unchecked, as other writers do
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, names=["url", "caption"]), sink)
    return sink.getvalue()


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_bad_rows_are_rows_with_a_status_at_their_place(tmp_path: Path, form: str) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images/a.jpg")
    (tmp_path / f"list.{form}").write_bytes(bad_parquet() if form == "parquet" else bad_list(form))
    table = read(tmp_path, manifest=str(tmp_path / f"list.{form}"), shard_size=3)
    assert table["caption"].to_pylist()[3] == LONG.strip()
    assert table["caption"].to_pylist()[5] == "bytes \ufffd that are no UTF-8"
    assert [table["caption"].to_pylist()[i] for i in (0, 7)] == ["first", "last"]
    fetch = Fetch(FetchConfig(image_root=str(tmp_path / "images"), image=DecodeConfig(min_side=8)))
    assert fetch(table)["status"].to_pylist() == [status for _, _, status in BAD]


def test_values_that_are_no_texts(tmp_path: Path) -> None:
    values = [
        '{"url": null, "caption": "x"}',
        '{"url": 7, "caption": 8}',
        "[1, 2]",
        "{oops",
        "null",
        '"text"',
    ]
    values += ['{"caption": "no url"}', r'{"url": "http://a/\ud800", "caption": ["one \udfff", 3, "two"]}']
    (tmp_path / "list.jsonl").write_text("\n".join(values))
    table = read(tmp_path, manifest=str(tmp_path / "list.jsonl"))
    assert table["url"].to_pylist() == [None] * 7 + ["http://a/?"]
    assert table["texts"].to_pylist() == [["x"], [], [], [], [], [], ["no url"], ["one ?", "two"]]


def test_carriage_returns_end_no_row_of_a_tsv(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_bytes(b"one\rtwo\thttp://a/1\r\nthree\thttp://a/2\n\nfour\n")
    table = read(tmp_path, manifest=str(tmp_path / "list.tsv"), columns=("caption", "url"))
    assert pairs(table) == [("http://a/1", "one\rtwo"), ("http://a/2", "three"), (None, "four")]


def test_files_that_are_cut_off_are_told(tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps({"url": "a"}).encode() * 999)[:-20])
    (tmp_path / "cut.json").write_text('[{"url": "a"}, {"url": ')
    (tmp_path / "sbu.json").write_text('{"image_urls": ["a", "b"], "captions": ["one"]}')
    for name, message in (
        ("cut.jsonl.gz", "end-of-stream"),
        ("cut.json", "damaged or cut off"),
        ("sbu.json", "2 image_urls and 1 captions"),
    ):
        with pytest.raises(ManifestError, match=f"cannot read .*{re.escape(name)} .*{message}") as error:
            read(tmp_path / name[:3], manifest=str(tmp_path / name))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("at_once", [1, 2, 7, 1000])
def test_json_arrays_are_read_in_pieces(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lists, "READ_AT_ONCE", at_once)
    for text in ("[]", " [ ]\n", "[1]", '[12 , 345,-6.5e3 ,"a,]\\"b", {"x": [1, {"y": "ü"}]}, null,true]  '):
        items = array_items(io.StringIO(text))
        assert items is not None and list(items) == json.loads(text)
    assert array_items(io.StringIO(' {"a": 1}')) is None
    for damaged in ("[", "[1", "[1,", "[1 2]", '["a]', "[1, oops]"):
        with pytest.raises(ValueError, match="array"):
            list(array_items(io.StringIO(damaged)) or ())
