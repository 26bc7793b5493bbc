"""Published url lists in their original formats, and rows with unusable values."""

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
from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.storage.store import Store

PAIRS = [
    ("http://a.test/1.jpg", "a dog"),
    ("http://b.test/2.jpg?x=1", 'said "no", twice'),
    ("c/3.jpg", "ein Bär"),
]


def read(folder: Path, **config: Any) -> pa.Table:
    """All rows, as the pipeline reads them."""
    run_dir = Store(str(folder / "run"))
    index = build_index(ManifestConfig(**config), run_dir / "manifests/web", source="web")
    items = [{"source": "web", "shard": shard} for shard in range(index.shards)]
    table = Read(ReadConfig(run_dir=run_dir))(pa.Table.from_pylist(items))
    assert table.num_rows == index.rows
    return table


def url_caption_pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))


def encode_parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def encode_lines(*columns: int) -> bytes:
    """PAIRS as tab-separated lines; column 0 is the url, 1 the caption."""
    return "".join("\t".join(pair[c] for c in columns) + "\n" for pair in PAIRS).encode()


def make_records(url: str, caption: str, **more: Any) -> list[dict[str, Any]]:
    """PAIRS as records with these column names, and `more` columns."""
    return [{url: u, caption: c, **more} for u, c in PAIRS]


LISTS: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "CC3M": ("Train_GCC-training.tsv", encode_lines(1, 0), {"columns": ("caption", "url")}),
    "CC12M": ("cc12m.tsv", encode_lines(0, 1), {"columns": ("url", "caption")}),
    "SBU": (
        "sbu-captions-all.json",
        json.dumps({"image_urls": [u for u, _ in PAIRS], "captions": [c for _, c in PAIRS]}).encode(),
        {},
    ),
    "SBU as lines": ("sbu.jsonl", "\n".join(map(json.dumps, make_records("url", "caption"))).encode(), {}),
    "LAION": (
        "part-00000.parquet",
        encode_parquet(make_records("URL", "TEXT", WIDTH=640, NSFW="UNLIKELY")),
        {},
    ),
    "DataComp": (
        "0000.parquet",
        encode_parquet(make_records("url", "text", uid="00", clip_b32_similarity_score=0.3)),
        {},
    ),
    "img2dataset": (
        "00000.parquet",
        encode_parquet(make_records("url", "caption", key="000", status="success")),
        {},
    ),
    "BLIP's filtered lists": (
        "ccs_synthetic_filtered_large.json",
        json.dumps(make_records("url", "caption"), ensure_ascii=False).encode(),
        {},
    ),
    "the same, compressed": (
        "laion_filtered.json.gz",
        gzip.compress(json.dumps(make_records("url", "caption")).encode()),
        {},
    ),
    "VG": ("vg_caption.json", json.dumps(make_records("image", "caption", dataset="vg")).encode(), {}),
    "other names": (
        "list.csv",
        b'alt;x,link\n"a dog",http://a.test/1.jpg\n"said ""no"", twice",http://b.test/2.jpg?x=1\n'
        + "ein Bär,c/3.jpg\n".encode(),
        {"url_column": "link", "caption_column": "alt;x"},
    ),
    "from a spreadsheet": (
        "list.csv.gz",
        gzip.compress(
            "\ufeffurl,caption\r\nhttp://a.test/1.jpg,a dog\r\n"
            'http://b.test/2.jpg?x=1,"said ""no"", twice"\r\nc/3.jpg,ein Bär\r\n'.encode()
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_published_lists_give_their_pairs(tmp_path: Path, name: str) -> None:
    file, data, config = LISTS[name]
    (tmp_path / file).write_bytes(data)
    assert url_caption_pairs(read(tmp_path, manifest=str(tmp_path / file), **config)) == PAIRS


VISUAL_GENOME = [
    {
        "id": 7,
        "regions": [{"region_id": 1, "phrase": "a red door", "x": 0}, {"phrase": "a step"}, {"phrase": 3}],
    },
    {"id": 8, "regions": []},
    {"id": "x", "regions": [{"phrase": "no image"}]},
    "nothing",
]


def test_visual_genome_gives_one_row_per_image(tmp_path: Path) -> None:
    (tmp_path / "region_descriptions.json").write_text(json.dumps(VISUAL_GENOME))
    table = read(tmp_path, manifest=str(tmp_path / "region_descriptions.json"))
    assert table["url"].to_pylist() == ["7.jpg", "8.jpg", None, None]
    assert table["texts"].to_pylist() == [["a red door", "a step"], [], ["no image"], []]


@pytest.mark.parametrize("compressed", [False, True])
def test_urls_and_captions_in_parallel_files(tmp_path: Path, compressed: bool) -> None:
    names = [f"SBU_captioned_photo_dataset_{part}.txt{'.gz' * compressed}" for part in ("urls", "captions")]
    for name, column in zip(names, (0, 1), strict=True):
        data = encode_lines(column)
        (tmp_path / name).write_bytes(gzip.compress(data) if compressed else data)
    assert url_caption_pairs(read(tmp_path, manifest=str(tmp_path / names[0]))) == PAIRS


def test_bare_urls_have_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"http://a.test/1.jpg\n\n http://b.test/2.jpg \r\n")
    table = read(tmp_path, manifest=str(tmp_path / "list.txt"))
    assert url_caption_pairs(table) == [("http://a.test/1.jpg", None), ("http://b.test/2.jpg", None)]
    assert table["texts"].to_pylist() == [[], []]


@pytest.mark.parametrize(
    ("longer", "message"),
    [("urls", "it has 3 captions and more urls"), ("captions", "it has 3 urls and more captions")],
)
def test_parallel_files_of_different_lengths_are_refused(tmp_path: Path, longer: str, message: str) -> None:
    for name, column in (("urls", 0), ("captions", 1)):
        more = b"one more\n" if name == longer else b""
        (tmp_path / f"x_{name}.txt").write_bytes(encode_lines(column) + more)
    with pytest.raises(ManifestError, match=message):
        read(tmp_path, manifest=str(tmp_path / "x_urls.txt"))


def test_changed_captions_are_a_changed_manifest(tmp_path: Path) -> None:
    for name, column in (("urls", 0), ("captions", 1)):
        (tmp_path / f"x_{name}.txt").write_bytes(encode_lines(column))
    read(tmp_path, manifest=str(tmp_path / "x_urls.txt"))
    (tmp_path / "x_captions.txt").write_bytes(b"a\nb\nanother\n")
    with pytest.raises(ManifestError, match="has changed since this run cut it"):
        read(tmp_path, manifest=str(tmp_path / "x_urls.txt"))


def test_files_of_several_filesystems_are_read_in_order_of_their_names(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for number in (2, 0, 1):
        row = json.dumps({"url": f"http://a.test/{number}", "caption": str(number)})
        memory.pipe_file(f"/lists/{number}.jsonl", row.encode())
    memory.pipe_file("/lists/notes.txt", b"not a list")
    (tmp_path / "more.csv").write_text("url,caption\nhttp://a.test/9,9\n")
    for pattern in ("memory://lists/*.jsonl", "memory://lists"):
        folder = tmp_path / pattern[-2:].strip("*/")
        table = read(folder, manifest=(pattern, str(tmp_path / "more.csv")), shard_size=2)
        assert [caption for _, caption in url_caption_pairs(table)] == ["0", "1", "2", "9"]


LONG = "word " * 400_000  # 2 MB
BAD = [  # url, text, status
    ("a.jpg", "first", "success"),
    ("", "no url", "bad_url"),
    ("a\0.jpg", "a NUL\0 in both", "bad_url"),
    ("a.jpg", LONG.strip(), "success"),
    (LONG.strip(), "a text instead of a url", "bad_url"),
    ("b\udcff.jpg", "bytes \udcff that are no UTF-8", "missing_file"),
    ("a.jpg", "", "success"),
    ("a.jpg", "last", "success"),
]


def encode_bad_rows(format_: str) -> bytes:
    """BAD in a text format; the half surrogates stand for a byte 0xff."""
    if format_ == "csv":
        text = "url,caption\n" + "".join(f'"{url}","{caption}"\n' for url, caption, _ in BAD)
    elif format_ == "tsv":
        text = "url\tcaption\n" + "".join(f"{url}\t{caption}\n" for url, caption, _ in BAD)
    else:
        items = [json.dumps({"url": url, "caption": caption}, ensure_ascii=False) for url, caption, _ in BAD]
        text = "\n".join(items) if format_ == "jsonl" else f"[{', '.join(items)}]"
    return text.encode("utf-8", "surrogateescape")


def encode_bad_parquet() -> bytes:
    columns = []
    for column in zip(*((url, caption) for url, caption, _ in BAD), strict=True):
        raw = [value.encode("utf-8", "surrogateescape") for value in column]
        columns.append(pa.array(raw, pa.binary()).view(pa.string()))  # unchecked, as other writers do
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, names=["url", "caption"]), sink)
    return sink.getvalue()


@pytest.mark.parametrize("format_", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_bad_rows_keep_their_place_and_get_a_status(tmp_path: Path, format_: str) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images/a.jpg")
    data = encode_bad_parquet() if format_ == "parquet" else encode_bad_rows(format_)
    (tmp_path / f"list.{format_}").write_bytes(data)
    table = read(tmp_path, manifest=str(tmp_path / f"list.{format_}"), shard_size=3)
    assert table["caption"].to_pylist()[3] == LONG.strip()
    assert table["caption"].to_pylist()[5] == "bytes \ufffd that are no UTF-8"
    assert [table["caption"].to_pylist()[i] for i in (0, 7)] == ["first", "last"]
    fetch = Fetch(FetchConfig(image_root=str(tmp_path / "images"), image=DecodeConfig(min_side=8)))
    assert fetch(table)["status"].to_pylist() == [status for _, _, status in BAD]


def test_values_that_are_not_text_are_left_out(tmp_path: Path) -> None:
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


def test_carriage_returns_do_not_end_a_row_of_a_tsv(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_bytes(b"one\rtwo\thttp://a/1\r\nthree\thttp://a/2\n\nfour\n")
    table = read(tmp_path, manifest=str(tmp_path / "list.tsv"), columns=("caption", "url"))
    assert url_caption_pairs(table) == [("http://a/1", "one\rtwo"), ("http://a/2", "three"), (None, "four")]


def test_incomplete_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps({"url": "a"}).encode() * 999)[:-20])
    (tmp_path / "cut.json").write_text('[{"url": "a"}, {"url": ')
    (tmp_path / "sbu.json").write_text('{"image_urls": ["a", "b"], "captions": ["one"]}')
    for name, message in (
        ("cut.jsonl.gz", "end-of-stream"),
        ("cut.json", "damaged or incomplete"),
        ("sbu.json", "2 image_urls and 1 captions"),
    ):
        with pytest.raises(ManifestError, match=f"cannot read .*{re.escape(name)} .*{message}") as error:
            read(tmp_path / name[:3], manifest=str(tmp_path / name))
        assert "\n" not in str(error.value)
