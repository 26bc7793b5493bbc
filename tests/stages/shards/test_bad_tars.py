"""Image tars that are cut off, garbled or empty: the samples before the break, and one row for all that is lost."""

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
from capfilt.stages.shards.tars import tar_samples
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.store import Store, StoreError
from tests.s3_server import ENVIRONMENT, Trouble
from tests.stages.fetch.hostile_server import JPEG, fetch_config

BLOCK = 512
PICTURE = np.random.default_rng(0).bytes(700)  # two blocks, and gzip makes nothing of it
SAMPLE = (BLOCK + 2 * BLOCK) + (BLOCK + BLOCK)
"""Bytes of one sample in the tar: header and picture, header and text."""


def sound(count=3, picture=PICTURE):
    """A tar of samples 000, 001, … of a picture and a text each."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(count):
            for ending, data in (("jpg", picture), ("txt", b"text")):
                member = tarfile.TarInfo(f"{number:03d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def garbled(at, data):
    return sound()[:at] + data + sound()[at + len(data) :]


def of_negative_size():
    """The second sample's first header claims -512 bytes, in the binary form, with the checksum that belongs to it."""
    header = bytearray(sound()[SAMPLE : SAMPLE + BLOCK])
    header[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return garbled(SAMPLE, bytes(header))


BROKEN = {  # what is wrong: the tar, whole samples before it, words of the message
    "cut in the middle of a picture": (sound()[: SAMPLE + BLOCK + 300], 1, "unexpected end of data"),
    "cut in the middle of a text": (sound()[: 2 * SAMPLE - BLOCK + 2], 1, "unexpected end of data"),
    "cut inside the header of a sample": (sound()[: 2 * SAMPLE + 100], 2, f"at byte {2 * SAMPLE}"),
    "cut inside the header of a text": (sound()[: 2 * SAMPLE - 2 * BLOCK + 9], 1, "neither a member nor"),
    "cut between two samples": (sound()[: 2 * SAMPLE], 2, f"end mark at byte {2 * SAMPLE}"),
    "cut in the first picture": (sound()[: BLOCK + 300], 0, "unexpected end of data"),
    "a header overwritten": (garbled(SAMPLE, b"\xaa" * BLOCK), 1, f"at byte {SAMPLE}"),
    "a header of a negative size": (of_negative_size(), 1, "-512 bytes"),
    "random bytes": (np.random.default_rng(1).bytes(5000), 0, "could not be opened"),
    "a web page": (b"<html><body>404</body></html>", 0, "could not be opened"),
    "no bytes": (b"", 0, "empty file"),
    "a tar of nothing": (sound(0), 0, "no files in it"),
}


def rows_of(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    run = Store(str(tmp_path / "run"))
    build_index(ManifestConfig(manifest=str(tmp_path / "a.tar")), run / "corpus/web/index", source="web")
    return Read(ReadConfig(run_dir=run))(pa.Table.from_pylist([{"source": "web", "shard": 0}])).to_pylist()


@pytest.mark.parametrize(("data", "whole", "words"), BROKEN.values(), ids=BROKEN)
def test_what_is_lost_is_one_row_after_the_samples_before(tmp_path, data, whole, words):
    *samples, lost = rows_of(tmp_path, data)
    address = f"file://{tmp_path}/a.tar"
    assert [row["url"] for row in samples] == [f"{address}#{number:03d}" for number in range(whole)]
    assert {(row["status"], row["image"], row["caption"]) for row in samples} <= {
        ("pending", PICTURE, "text")
    }
    assert [row["key"] for row in (*samples, lost)] == [f"000000{number:05d}" for number in range(whole + 1)]
    assert (lost["url"], lost["status"], lost["image"], lost["texts"]) == (address, "bad_tar", None, [])
    assert lost["error_message"].startswith(f"after {whole} samples: ") and words in lost["error_message"]
    assert lost["error_message"].isprintable()


def test_a_sound_tar_has_no_row_more(tmp_path):
    ended = sound()[: 3 * SAMPLE + BLOCK]  # by one block of zeros
    for number, data in enumerate((sound(), gzip.compress(sound()), ended)):
        (folder := tmp_path / str(number)).mkdir()
        assert [row["status"] for row in rows_of(folder, data)] == ["pending"] * 3


def test_a_compressed_tar_that_is_cut_off(tmp_path):
    picture = np.random.default_rng(2).bytes(100_000)  # too long for gzip to see that it comes again
    packed = gzip.compress(sound(3, picture))
    *samples, lost = rows_of(tmp_path, packed[: len(packed) // 2])
    assert [row["image"] for row in samples] == [picture]
    assert lost["status"] == "bad_tar" and "EOFError" in lost["error_message"]


def test_the_last_sample_may_be_another_than_the_one_before(tmp_path):
    """Of a tar that is whole no sample is dropped, whatever members it has."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name in ("0.jpg", "0.txt", "1.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    assert [row["caption"] for row in rows_of(tmp_path, sink.getvalue())] == ["", None]


def test_counts_add_up_through_the_whole_chain(tmp_path):
    """Two tars, one cut off: both shards are committed, the same each time, and a retry leaves the lost row alone."""
    sample = BLOCK * (1 + -(-len(JPEG) // BLOCK) + 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/0.tar").write_bytes(sound(3, JPEG))
    (tmp_path / "in/1.tar").write_bytes(sound(3, JPEG)[: 2 * sample + BLOCK + 9])  # in the picture of 002
    made = []
    for name in ("one", "two"):
        run = Store(str(tmp_path / name))
        build_index(ManifestConfig(manifest=str(tmp_path / "in")), run / "corpus/web/index", source="web")
        read, write = (
            Read(ReadConfig(run_dir=run)),
            Write(WriteConfig(run_dir=run, corpus_fingerprints={"web": "f"})),
        )
        for shard in (0, 1):
            write(Fetch(fetch_config())(read(pa.Table.from_pylist([{"source": "web", "shard": shard}]))))
        made.append(
            [
                (tmp_path / name / f"corpus/web/00000{n}.{e}").read_bytes()
                for n in (0, 1)
                for e in ("tar", "parquet")
            ]
        )
    assert made[0] == made[1]
    records = [run.read_json(f"corpus/web/00000{shard}.json") for shard in (0, 1)]
    assert [r["rows"] for r in records] == [
        {"read": 3, "status": {"success": 3}},
        {"read": 3, "status": {"success": 2, "bad_tar": 1}},
    ]
    assert [r["texts"] for r in records] == [3, 2]
    table = pq.read_table(tmp_path / "two/corpus/web/000001.parquet")
    assert table["status"].to_pylist() == ["success", "success", "bad_tar"]
    item = pa.Table.from_pylist([{"source": "web", "shard": 1}])
    again = ReadFailed(RetryConfig(run_dir=run, classes=("connect", "decode")))(item)
    assert again["status"].equals(table["status"]) and again["url"].equals(table["url"])


def test_what_may_pass_is_no_damage(tmp_path, s3, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    s3.calm()
    store = Store("s3://bucket/tars-that-do-not-come", {"endpoint_url": s3.endpoint})
    store.put("a.tar", sound())
    address = store.address("a.tar")
    assert len(list(tar_samples(address, store.options))) == 3
    for trouble, words in (
        (Trouble("cut", method="GET"), "Not enough data"),
        (Trouble("gone"), "NoSuchBucket"),
    ):
        s3.trouble(trouble)
        with pytest.raises(StoreError, match=words) as error:
            list(tar_samples(address, store.options))
        assert str(error.value).startswith(f"{address}: cannot read it (")
    s3.calm()


def test_less_than_the_file_has_is_no_damage(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(sound())
    read = LocalFileSystem.cat_file
    monkeypatch.setattr(LocalFileSystem, "cat_file", lambda *args, **options: read(*args, **options)[:-BLOCK])
    with pytest.raises(
        StoreError, match=rf"/a\.tar: cannot read it \({len(sound()) - BLOCK} of {len(sound())} bytes"
    ):
        list(tar_samples(f"file://{tmp_path}/a.tar"))
    with pytest.raises(StoreError, match=r"/none\.tar: cannot read it \(FileNotFoundError"):
        list(tar_samples(f"file://{tmp_path}/none.tar"))


def test_a_machine_without_memory_is_no_damage(tmp_path, monkeypatch):
    def no_room(*args):
        raise MemoryError

    (tmp_path / "a.tar").write_bytes(sound())
    monkeypatch.setattr(tarfile.TarFile, "extractfile", no_room)
    with pytest.raises(MemoryError):
        list(tar_samples(f"file://{tmp_path}/a.tar"))
