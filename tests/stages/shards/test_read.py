"""Reading shards of existing image tars: sidecars with any content, and samples that cannot be read."""

import io
import json
import tarfile
from functools import partial

import pyarrow as pa
import pytest

from capfilt.cluster.chain.steps import StageRunner, Step
from capfilt.pipeline.nodes.chain import ISOLATION
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.rows import ROW_SCHEMA, with_column
from capfilt.stages.shards.read import Read, ReadConfig, Unpack
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.layout import STOP_FILE
from capfilt.stages.storage.store import Store

IMAGE = b"\xff\xd8\xff"
TEXTS = [["one", "eins"], [], ["three"]]


@pytest.fixture
def reader(tmp_path):
    """Makes a reader of a tar with the given samples, each {suffix: bytes}."""

    def make(*samples):
        with tarfile.open(tmp_path / "shard.tar", "w") as tar:
            for number, sample in enumerate(samples):
                for suffix, data in sample.items():
                    member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        run_dir = Store(str(tmp_path / "run"))
        build_index(ManifestConfig(manifest=str(tmp_path / "shard.tar")), run_dir / "manifests/s", source="s")
        step = Step(
            name="read",
            make=partial(Read, ReadConfig(run_dir=run_dir)),
            kind="read",
            rowwise=Unpack,
            isolation=ISOLATION,
        )
        return StageRunner(step)

    return make


def read(runner):
    return runner(pa.Table.from_pylist([{"source": "s", "shard": 0}])).to_pylist()


@pytest.mark.parametrize(
    "sidecars, url, texts",
    [
        ({"txt": b" a cat\n", "json": b'{"url": "http://a/1", "caption": "a dog"}'}, "http://a/1", ["a cat"]),
        ({"json": b'{"url": "http://a/1", "caption": "a dog"}'}, "http://a/1", ["a dog"]),
        ({"txt": b"caf\xe9"}, None, ["caf\ufffd"]),
        ({"txt": b"a cat", "json": b"[1, 2]"}, None, ["a cat"]),
        ({"json": b'{"url": 7, "caption": 3}'}, None, []),
        ({"json": b'{"url": "http://a/1"'}, None, []),
        ({"json": b"[" * 100_000}, None, []),
        ({"json": b"\xff\xfe\x00"}, None, []),
        ({}, None, []),
    ],
)  # fmt: skip
def test_url_and_text_are_read_from_the_sidecars(reader, tmp_path, sidecars, url, texts):
    (row,) = read(reader({"jpg": IMAGE} | sidecars))
    assert row["url"] == (url or f"file://{tmp_path}/shard.tar#000")
    assert row["texts"] == texts and row["caption"] == (texts[0] if texts else None)
    assert (row["key"], row["status"], row["image"]) == ("00000000000", "pending", IMAGE)


def test_a_sample_without_image_has_an_error_message(reader):
    (row,) = read(reader({"txt": b"a cat"}))
    assert row["error_message"].startswith(
        "the sample has no image member: its members end in .txt; endings of"
    )
    assert row["image"] is None


def test_a_sample_that_cannot_be_read_fails_without_the_others(reader):
    half = json.dumps({"url": "http://a/\ud800", "caption": "half a pair of surrogates"}).encode()
    rows = read(reader(*[{"jpg": IMAGE, "txt": b"fine"}] * 3, {"jpg": IMAGE, "json": half}))
    assert [row["status"] for row in rows] == ["pending"] * 3 + ["internal"]
    assert rows[3]["error_message"].startswith("UnicodeEncodeError") and rows[3]["image"] is None
    assert [row["caption"] for row in rows[:3]] == ["fine"] * 3


def test_tars_on_a_store_are_read_with_the_options_of_the_manifest(healthy_s3, tmp_path):
    bucket = Store("s3://bucket/tars-of-a-manifest", {"endpoint_url": healthy_s3.endpoint})
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in (("a.jpg", b"image"), ("a.txt", b"a text")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    bucket.put("in/0.tar", sink.getvalue())
    run_dir = Store(str(tmp_path))
    manifest = ManifestConfig(manifest=bucket.address("in/*.tar"), storage_options=bucket.options)
    build_index(manifest, run_dir / "manifests/web", source="web")
    stage = Read(ReadConfig(run_dir=run_dir, manifests={"web": manifest}))
    (row,) = stage(pa.Table.from_pylist([{"source": "web", "shard": 0}])).to_pylist()
    assert row["image"] == b"image" and row["texts"] == ["a text"]


@pytest.fixture
def run_dir(tmp_path):
    """A run directory with an index of three rows in shards of two."""
    (tmp_path / "list.jsonl").write_text(
        "\n".join(json.dumps({"url": f"http://a/{n}", "caption": texts}) for n, texts in enumerate(TEXTS))
    )
    store = Store(str(tmp_path / "run"))
    manifest = ManifestConfig(manifest=str(tmp_path / "list.jsonl"), shard_size=2)
    build_index(manifest, store / "manifests/web", source="web")
    return store


def read_shards(run_dir, *shards, **config):
    stage = Read(ReadConfig(run_dir=run_dir, **config))
    return stage(pa.Table.from_pylist([{"source": "web", "shard": shard} for shard in shards]))


def test_rows_of_a_manifest_are_pending_and_have_keys(run_dir):
    table = read_shards(run_dir, 0, 1)
    assert table.schema.equals(ROW_SCHEMA)
    columns = ("key", "source", "shard", "url", "texts", "caption", "status", "image")
    assert [tuple(row[name] for name in columns) for row in table.to_pylist()] == [
        ("00000000000", "web", 0, "http://a/0", ["one", "eins"], "one", "pending", None),
        ("00000000001", "web", 0, "http://a/1", [], None, "pending", None),
        ("00000100000", "web", 1, "http://a/2", ["three"], "three", "pending", None),
    ]


def test_no_rows_are_read_once_the_run_is_to_stop(run_dir):
    run_dir.put(STOP_FILE, b"")
    table = read_shards(run_dir, 0)
    assert table.num_rows == 0 and table.schema.equals(ROW_SCHEMA)


def test_a_committed_shard_is_read_from_the_corpus_with_or_without_images(run_dir):
    rows = with_column(read_shards(run_dir, 0), "status", ["success", "dns"], pa.string())
    rows = with_column(rows, "image", [IMAGE, None], pa.large_binary())
    Write(WriteConfig(run_dir=run_dir, corpus_fingerprints={"web": "f"}))(rows)
    assert read_shards(run_dir, 0).equals(rows)
    without = read_shards(run_dir, 0, images=False)
    assert without.drop(["image"]).equals(rows.drop(["image"]))
    assert without["image"].to_pylist() == [None, None]
    run_dir.remove_file("images/web/000000.tar")
    assert read_shards(run_dir, 0, images=False).equals(without)
    with pytest.raises(
        ValueError, match=r"000000\.tar has no image 00000000000, which 000000\.parquet lists"
    ):
        read_shards(run_dir, 0)
