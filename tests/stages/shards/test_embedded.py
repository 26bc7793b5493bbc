"""Images inside Parquet files, as `datasets` writes them."""

import io

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileOpener
from PIL import Image

from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index, check_manifest
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.storage.store import Store, StoreError


def encode(number):
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(sink, "PNG")
    return sink.getvalue()


IMAGES = [encode(number) for number in range(7)]


def read_rows(tmp_path, max_bytes=1000):
    """Rows of a manifest as the chain of stages gets them, in shards of three."""
    config = ManifestConfig(manifest=str(tmp_path / "in"), shard_size=3)
    check_manifest(config, "sources.web.rows", with_texts=True)
    store = Store(str(tmp_path / "run"))
    index = build_index(config, store / "manifests/web", source="web")
    read = Read(ReadConfig(run_dir=store, manifests={"web": config}, max_bytes={"web": max_bytes}))
    shards = [{"source": "web", "shard": shard} for shard in range(index.shards)]
    return [row for shard in shards for row in read(pa.Table.from_pylist([shard])).to_pylist()]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_a_data_set_of_images_is_read(tmp_path, folder):
    """Two files, with row groups that do not end where shards end."""
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    for name, numbers in (("a", range(4)), ("b", range(4, 7))):
        values = [{"bytes": IMAGES[n], "path": f"{n}.png"} for n in numbers]
        data = datasets.Dataset.from_dict({"image": values, "text": [f"t{n}" for n in numbers]}, features)
        data.to_parquet(str(folder / f"{name}.parquet"), batch_size=2)
    rows = read_rows(tmp_path)
    assert [row["image"] for row in rows] == IMAGES
    assert [row["texts"] for row in rows] == [[f"t{n}"] for n in range(7)]
    assert {row["status"] for row in rows} == {"pending"} and len({row["key"] for row in rows}) == 7


def test_rows_without_bytes_keep_their_path_and_large_images_fail(tmp_path, folder):
    values = [{"bytes": IMAGES[0], "path": "0.png"}, {"bytes": None, "path": "http://a.test/1.png"}, None]
    values += [{"bytes": b"x" * 1000, "path": None}, {"bytes": b"x" * 1001, "path": None}]
    pq.write_table(pa.table({"image": values, "caption": list("abcde")}), folder / "a.parquet")
    rows = read_rows(tmp_path)
    assert [(row["image"] is not None, row["status"]) for row in rows] == [
        (True, "pending"), (False, "pending"), (False, "pending"), (True, "pending"), (False, "too_big"),
    ]  # fmt: skip
    assert rows[1]["url"] == "http://a.test/1.png" and rows[2]["url"].endswith("/in/a.parquet#2")
    assert rows[4]["error_message"] == "1001 bytes, the limit is 1000 (fetch.max_bytes)"


def test_a_damaged_page_fails_its_rows_only(tmp_path, folder):
    table = pa.table({"image": [{"bytes": image, "path": ""} for image in IMAGES], "text": ["t"] * 7})
    path = folder / "a.parquet"
    pq.write_table(table, path, row_group_size=3, compression="none", use_dictionary=False)
    config = ManifestConfig(manifest=str(folder), shard_size=3)
    store = Store(str(tmp_path / "run"))
    build_index(config, store / "manifests/web", source="web")
    data = path.read_bytes()
    at = data.index(IMAGES[4])
    path.write_bytes(data[: at - 4] + b"\xff\xff\xff\x7f" + data[at:])  # the length of the image
    read = Read(ReadConfig(run_dir=store, manifests={"web": config}))
    rows = [read(pa.Table.from_pylist([{"source": "web", "shard": n}])).to_pylist() for n in range(3)]
    assert [row["image"] for row in rows[0] + rows[2]] == IMAGES[:3] + IMAGES[6:]  # other row groups
    assert len(rows[1]) == 3 and {row["status"] for row in rows[1]} <= {"decode", "pending"}
    failed = [row for row in rows[1] if row["status"] == "decode"]
    assert failed and all(row["image"] in IMAGES for row in rows[1] if row not in failed)
    assert failed[0]["error_message"].startswith(f"cannot read the image from file://{path}: ")


def read_shard(tmp_path, folder):
    """The only shard of a file with the first two images, as a function that reads it again."""
    values = [{"bytes": image, "path": None} for image in IMAGES[:2]]
    pq.write_table(pa.table({"image": values, "text": ["t", "u"]}), folder / "a.parquet")
    config = ManifestConfig(manifest=str(folder))
    store = Store(str(tmp_path / "run"))
    build_index(config, store / "manifests/web", source="web")
    read = Read(ReadConfig(run_dir=store, manifests={"web": config}))
    return lambda: read(pa.Table.from_pylist([{"source": "web", "shard": 0}])).to_pylist()


def test_a_damaged_footer_fails_all_rows_of_the_file(tmp_path, folder):
    read = read_shard(tmp_path, folder)
    assert [row["image"] for row in read()] == IMAGES[:2]
    data = (folder / "a.parquet").read_bytes()
    (folder / "a.parquet").write_bytes(data[:-4] + b"PARX")
    assert [row["status"] for row in read()] == ["decode"] * 2


@pytest.mark.parametrize("error", [OSError("Input/output error"), ValueError("closed"), TimeoutError()])
def test_a_file_that_cannot_be_read_fails_no_row(tmp_path, folder, monkeypatch, error):
    read = read_shard(tmp_path, folder)

    def fail(self, size=-1):
        if self.path.endswith("/in/a.parquet"):
            raise error
        return self.f.read(size)  # the index

    monkeypatch.setattr(LocalFileOpener, "read", fail, raising=False)
    with pytest.raises(StoreError, match=r"a\.parquet: cannot read it"):
        read()
    monkeypatch.undo()
    (folder / "a.parquet").unlink()
    with pytest.raises(StoreError, match=r"a\.parquet: cannot read it"):
        read()


def test_a_lack_of_memory_fails_no_row(tmp_path, folder, monkeypatch):
    def fail(*args, **options):
        raise pa.ArrowMemoryError("malloc failed")

    read = read_shard(tmp_path, folder)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    with pytest.raises(MemoryError):
        read()
