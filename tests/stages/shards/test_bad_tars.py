"""Damaged image tars: the samples before the damage are read, and one row represents what is lost."""

import gzip
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.retry import ReadFailed, RetryConfig
from capfilt.stages.shards.tars import iter_samples
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.layout import corpus_shard
from capfilt.stages.storage.store import Store, StoreError
from tests.s3_server import S3Fault
from tests.stages.fetch.hostile_server import JPEG, fetch_config

BLOCK = 512
IMAGE = np.random.default_rng(0).bytes(700)  # two blocks, which gzip cannot compress
SAMPLE = (BLOCK + 2 * BLOCK) + (BLOCK + BLOCK)
"""Bytes of one sample in the tar: header and image, header and text."""


def make_tar(count=3, image=IMAGE):
    """A tar of samples 000, 001, …, each with an image and a text."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(count):
            for suffix, data in (("jpg", image), ("txt", b"text")):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def overwrite(at, data):
    """A tar with `data` written over its bytes from `at` on."""
    return make_tar()[:at] + data + make_tar()[at + len(data) :]


def make_negative_size():
    """A tar whose second sample has a header with a size of -512 bytes and a valid checksum."""
    header = bytearray(make_tar()[SAMPLE : SAMPLE + BLOCK])
    header[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return overwrite(SAMPLE, bytes(header))


BROKEN = {  # damage: (tar, complete samples before the damage, part of the message)
    "truncated inside an image": (make_tar()[: SAMPLE + BLOCK + 300], 1, "unexpected end of data"),
    "truncated inside a text": (make_tar()[: 2 * SAMPLE - BLOCK + 2], 1, "unexpected end of data"),
    "truncated inside the header of a sample": (make_tar()[: 2 * SAMPLE + 100], 2, f"at byte {2 * SAMPLE}"),
    "truncated inside the header of a text": (
        make_tar()[: 2 * SAMPLE - 2 * BLOCK + 9],
        1,
        "neither a member",
    ),
    "truncated between two samples": (make_tar()[: 2 * SAMPLE], 2, f"end mark at byte {2 * SAMPLE}"),
    "truncated inside the first image": (make_tar()[: BLOCK + 300], 0, "unexpected end of data"),
    "an overwritten header": (overwrite(SAMPLE, b"\xaa" * BLOCK), 1, f"at byte {SAMPLE}"),
    "a header with a negative size": (make_negative_size(), 1, "-512 bytes"),
    "random bytes": (np.random.default_rng(1).bytes(5000), 0, "invalid header"),
    "a web page": (b"<html><body>404</body></html>", 0, "truncated header"),
    "no bytes": (b"", 0, "empty file"),
    "a tar without members": (make_tar(0), 0, "the tar has no files"),
}


def read_rows(tmp_path, data):
    """Rows of the shard that a tar with these bytes makes."""
    (tmp_path / "a.tar").write_bytes(data)
    run_dir = Store(str(tmp_path / "run"))
    build_index(ManifestConfig(manifest=str(tmp_path / "a.tar")), run_dir / "manifests/web", source="web")
    return Read(ReadConfig(run_dir=run_dir))(
        pa.Table.from_pylist([{"source": "web", "shard": 0}])
    ).to_pylist()


@pytest.mark.parametrize(("data", "complete", "message"), BROKEN.values(), ids=BROKEN)
def test_one_row_after_the_complete_samples_represents_what_is_lost(tmp_path, data, complete, message):
    *samples, lost = read_rows(tmp_path, data)
    address = f"file://{tmp_path}/a.tar"
    assert [row["url"] for row in samples] == [f"{address}#{number:03d}" for number in range(complete)]
    assert {(row["status"], row["image"], row["caption"]) for row in samples} <= {("pending", IMAGE, "text")}
    keys = [row["key"] for row in (*samples, lost)]
    assert keys == [f"000000{number:05d}" for number in range(complete + 1)]
    assert (lost["url"], lost["status"], lost["image"], lost["texts"]) == (address, "bad_tar", None, [])
    assert lost["error_message"].startswith(f"after {complete} samples: ")
    assert message in lost["error_message"] and lost["error_message"].isprintable()


def test_an_undamaged_tar_has_no_such_row(tmp_path):
    short_end = make_tar()[: 3 * SAMPLE + BLOCK]  # an end mark of one block instead of two
    for number, data in enumerate((make_tar(), gzip.compress(make_tar()), short_end)):
        (folder := tmp_path / str(number)).mkdir()
        assert [row["status"] for row in read_rows(folder, data)] == ["pending"] * 3


def test_a_truncated_compressed_tar(tmp_path):
    image = np.random.default_rng(2).bytes(100_000)  # too long for gzip to find its repetitions
    compressed = gzip.compress(make_tar(3, image))
    *samples, lost = read_rows(tmp_path, compressed[: len(compressed) // 2])
    assert [row["image"] for row in samples] == [image]
    assert lost["status"] == "bad_tar" and "EOFError" in lost["error_message"]


def test_the_last_sample_of_a_complete_tar_may_have_fewer_members(tmp_path):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name in ("0.jpg", "0.txt", "1.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    assert [row["caption"] for row in read_rows(tmp_path, sink.getvalue())] == ["", None]


def test_counts_add_up_through_the_whole_chain(tmp_path):
    """Two tars, one of them truncated: both shards are committed, with equal bytes in each run, and a retry
    does not change the row of what is lost."""
    sample = BLOCK * (1 + -(-len(JPEG) // BLOCK) + 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").write_bytes(make_tar(3, JPEG))
    inside_002 = 2 * sample + BLOCK + 9  # in the image of sample 002
    (tmp_path / "in/1.tar").write_bytes(make_tar(3, JPEG)[:inside_002])
    contents = []
    for name in ("one", "two"):
        run_dir = Store(str(tmp_path / name))
        manifest = ManifestConfig(manifest=str(tmp_path / "in"))
        build_index(manifest, run_dir / "manifests/web", source="web")
        read = Read(ReadConfig(run_dir=run_dir))
        write = Write(WriteConfig(run_dir=run_dir, corpus_fingerprints={"web": "f"}))
        for shard in (0, 1):
            write(Fetch(fetch_config())(read(pa.Table.from_pylist([{"source": "web", "shard": shard}]))))
        places = [corpus_shard("web", shard) for shard in (0, 1)]
        contents.append([run_dir.read(file) for place in places for file in (place.tar, place.parquet)])
    assert contents[0] == contents[1]
    records = [run_dir.read_json(f"records/corpus/web/00000{shard}.json") for shard in (0, 1)]
    assert [r["rows"] for r in records] == [
        {"read": 3, "status": {"success": 3}},
        {"read": 3, "status": {"success": 2, "bad_tar": 1}},
    ]
    assert [r["texts"] for r in records] == [3, 2]
    table = pq.read_table(tmp_path / "two/corpus/web/000001.parquet")
    assert table["status"].to_pylist() == ["success", "success", "bad_tar"]
    item = pa.Table.from_pylist([{"source": "web", "shard": 1}])
    again = ReadFailed(RetryConfig(run_dir=run_dir, classes=("connect", "decode")))(item)
    assert again["status"].equals(table["status"]) and again["url"].equals(table["url"])


def test_a_store_that_fails_is_not_a_damaged_tar(healthy_s3):
    store = Store("s3://bucket/tars-that-cannot-be-read", {"endpoint_url": healthy_s3.endpoint})
    store.put("a.tar", make_tar())
    address = store.address("a.tar")
    assert len(list(iter_samples(address, ManifestConfig(storage_options=store.options)))) == 3
    for fault, message in (
        (S3Fault("truncate", method="GET"), "Not enough data"),
        (S3Fault("no_bucket"), "NoSuchBucket"),
    ):
        healthy_s3.inject(fault)
        with pytest.raises(StoreError, match=message) as error:
            list(iter_samples(address, ManifestConfig(storage_options=store.options)))
        assert str(error.value).startswith(f"{address}: cannot read it (")


def test_an_incomplete_read_is_not_a_damaged_tar(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(make_tar())
    read = LocalFileSystem.cat_file
    monkeypatch.setattr(LocalFileSystem, "cat_file", lambda *args, **options: read(*args, **options)[:-BLOCK])
    with pytest.raises(
        StoreError,
        match=rf"/a\.tar: cannot read it \({len(make_tar()) - BLOCK} of {len(make_tar())} bytes received",
    ):
        list(iter_samples(f"file://{tmp_path}/a.tar"))
    with pytest.raises(StoreError, match=r"/none\.tar: cannot read it \(FileNotFoundError"):
        list(iter_samples(f"file://{tmp_path}/none.tar"))


def test_a_lack_of_memory_is_not_a_damaged_tar(tmp_path, monkeypatch):
    def fail(*args):
        raise MemoryError

    (tmp_path / "a.tar").write_bytes(make_tar())
    monkeypatch.setattr(tarfile.TarFile, "extractfile", fail)
    with pytest.raises(MemoryError):
        list(iter_samples(f"file://{tmp_path}/a.tar"))
