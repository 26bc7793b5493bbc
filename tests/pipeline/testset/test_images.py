"""Images of a test set: read as they are, or a status and a reason."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.pipeline.testset import images as module
from capfilt.pipeline.testset.images import read_images
from capfilt.pipeline.testset.layouts import BAD_RECORD, TestImage, TestSetError, read_test_set
from capfilt.stages.manifest.row import make_row
from capfilt.stages.status import SUCCESS


def encoded(width=9, height=7, seed=0, kind="JPEG"):
    sink = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, kind)
    return sink.getvalue()


def test_every_record_has_its_bytes_or_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IMAGES_AT_A_TIME", 2)
    data = {
        "a.jpg": encoded(),
        "banner.png": encoded(width=300, height=1, kind="PNG"),
        "b.jpg": encoded()[:-40],
    }
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)
    names = ["a.jpg", "none.jpg", "b.jpg", "banner.png", "../a.jpg"]
    records = [TestImage(make_row(name, ["text"]), number) for number, name in enumerate(names)]
    records.insert(1, TestImage(make_row("a.jpg", []), 0, BAD_RECORD, "a second image with id 0"))
    done = []
    found = read_images(records, str(tmp_path), done.append)
    assert found == [data["a.jpg"], None, None, None, data["banner.png"], None]
    assert [record.status for record in records] == [
        SUCCESS, BAD_RECORD, "missing_file", "decode", SUCCESS, "bad_url",
    ]  # fmt: skip
    assert records[1].message == "a second image with id 0" and records[0].message is None
    assert "none.jpg" in records[2].message and "outside the image folder" in records[5].message
    assert done == [2, 4, 6]


def test_folder_that_would_be_read_without_checks_is_refused():
    with pytest.raises(TestSetError, match=r"--images zip://a\.zip::https://x: .* give a folder on a disk"):
        read_images([], "zip://a.zip::https://x", print)


def test_images_embedded_in_a_parquet_file(tmp_path):
    images = [encoded(seed=seed, kind="PNG") for seed in range(3)]
    table = {"image": [{"bytes": data, "path": None} for data in images], "text": ["a", "b", "c"]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    records = read_test_set(str(tmp_path / "a.parquet"), None, None).images
    assert read_images(records, str(tmp_path), lambda done: None) == images
    assert [(r.image_id, r.status, r.row["texts"]) for r in records] == [
        (0, SUCCESS, ["a"]), (1, SUCCESS, ["b"]), (2, SUCCESS, ["c"]),
    ]  # fmt: skip
