"""Members of the tars that are written: names, sidecars and file extensions."""

import io
import json
import tarfile

import pytest
from PIL import Image

from capfilt.stages.rows import CORPUS_SCHEMA, ROW_SCHEMA, table_of
from capfilt.stages.shards.pack import Pack, encode_tar, image_extension

JPEG, PNG = b"\xff\xd8\xff...", b"\x89PNG..."


def encode_image(format_):
    sink = io.BytesIO()
    Image.new("RGB", (8, 6), (1, 2, 3)).save(sink, format_)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("format_", "extension"),
    [
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("WEBP", "webp"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("TIFF", "tif"),
        ("AVIF", "avif"),
        ("PPM", "img"),
    ],
)
def test_the_extension_follows_the_first_bytes(format_, extension):
    image = encode_image(format_)
    assert image_extension(image) == image_extension(image[:12]) == extension


@pytest.mark.parametrize(
    ("image", "extension"),
    [
        (b"MM\0*", "tif"),
        (b"II*", "img"),
        (b"", "img"),
        (b"RIFF\0\0\0\0WAVE", "img"),
        (b"WEBP....RIFF", "img"),
    ],
)
def test_bytes_that_resemble_a_signature(image, extension):
    assert image_extension(image) == extension


def make_batch():
    common = {"source": "web", "shard": 0, "url": "http://a", "texts": []}
    rows = [
        common | {"key": "0", "status": "success", "caption": "é", "image": JPEG},
        common | {"key": "1", "status": "dns", "caption": "b", "image": None},
        common | {"key": "2", "status": "success", "caption": None, "image": PNG},
        common | {"key": "3", "status": "internal", "caption": "d", "image": JPEG},
    ]
    return table_of(rows, ROW_SCHEMA)


def test_stored_images_get_an_extension_and_their_row_as_sidecar():
    out = Pack()(make_batch())
    assert out.select(ROW_SCHEMA.names).equals(make_batch())
    assert out["extension"].to_pylist() == ["jpg", None, "png", None]
    sidecars = [data and json.loads(data) for data in out["sidecar"].to_pylist()]
    rows = make_batch().select(CORPUS_SCHEMA.names).to_pylist()
    assert sidecars == [rows[0], None, rows[2], None]


def test_a_tar_has_three_members_per_stored_image_without_time_and_owner():
    with tarfile.open(fileobj=io.BytesIO(encode_tar(Pack()(make_batch())))) as tar:
        members = tar.getmembers()
        contents = {member.name: tar.extractfile(member).read() for member in members}
    assert list(contents) == ["0.jpg", "0.txt", "0.json", "2.png", "2.txt", "2.json"]
    assert (contents["0.jpg"], contents["0.txt"], contents["2.txt"]) == (JPEG, "é".encode(), b"")
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
