"""Image tars of others: what their sidecars say, whatever is in them, and samples that cannot be read."""

import io
import json
import tarfile
from functools import partial

import pyarrow as pa
import pytest

from capfilt.cluster.chain.engine import StageRunner, Step
from capfilt.pipeline.nodes.chain import ISOLATION
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.read import Read, ReadConfig, Unpack
from capfilt.stages.storage.store import Store

PICTURE = b"\xff\xd8\xff"


@pytest.fixture
def reader(tmp_path):
    """Makes a reader of a tar with these samples, each {ending: bytes}."""

    def make(*samples):
        with tarfile.open(tmp_path / "shard.tar", "w") as tar:
            for number, sample in enumerate(samples):
                for ending, data in sample.items():
                    member = tarfile.TarInfo(f"{number:03d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        run = Store(str(tmp_path / "run"))
        build_index(ManifestConfig(manifest=str(tmp_path / "shard.tar")), run / "corpus/s/index", source="s")
        step = Step(
            name="read",
            make=partial(Read, ReadConfig(run_dir=run)),
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
def test_url_and_text_come_from_the_sidecars(reader, tmp_path, sidecars, url, texts):
    (row,) = read(reader({"jpg": PICTURE} | sidecars))
    assert row["url"] == (url or f"file://{tmp_path}/shard.tar#000")
    assert row["texts"] == texts and row["caption"] == (texts[0] if texts else None)
    assert (row["key"], row["status"], row["image"]) == ("00000000000", "pending", PICTURE)


def test_a_sample_without_an_image_says_so(reader):
    (row,) = read(reader({"txt": b"a cat"}))
    assert row["error_message"] == "the sample has no image member" and row["image"] is None


def test_samples_that_cannot_be_read_fail_alone(reader):
    half = json.dumps({"url": "http://a/\ud800", "caption": "half a pair of surrogates"}).encode()
    rows = read(reader(*[{"jpg": PICTURE, "txt": b"fine"}] * 3, {"jpg": PICTURE, "json": half}))
    assert [row["status"] for row in rows] == ["pending"] * 3 + ["internal"]
    assert rows[3]["error_message"].startswith("UnicodeEncodeError") and rows[3]["image"] is None
    assert [row["caption"] for row in rows[:3]] == ["fine"] * 3
