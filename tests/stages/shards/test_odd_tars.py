"""Samples of odd and hostile tars: dotted names, joined archives, links, sparse members, false sizes."""

import io
import tarfile

import pytest
from PIL import Image

from capfilt.stages.images.decode import FORMATS
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.shards.tars import iter_samples, parse_sidecars


def make_tar(*members):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if isinstance(data, tuple):
                member.type, member.linkname = data
                data = b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def read(tmp_path, data, **options):
    (tmp_path / "a.tar").write_bytes(data)
    rows = list(iter_samples(f"file://{tmp_path}/a.tar", **options))
    return [
        (r.get("image"), parse_sidecars(r["sample"])["texts"] if "sample" in r else r["status"]) for r in rows
    ]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("2.05.png", b"a"), ("2.05.txt", b"x"), ("2.06.png", b"b")], [(b"a", ["x"]), (b"b", [])]),
        ([("0.input.jpg", b"a"), ("0.output.txt", b"x")], [(b"a", ["x"])]),
        ([("0.jpg", b"a"), ("0.mask.png", b"m"), ("0.txt", b"x")], [(b"a", ["x"])]),
        ([("0.jpg", b"a"), ("1.jpg", b"b"), ("0.jpg", b"c")], [(b"a", []), (b"b", []), (b"c", [])]),
        ([("0.jpg", b"a"), ("1.jpg", (tarfile.LNKTYPE, "0.jpg"))], [(b"a", []), (b"a", [])]),
        ([("._0.jpg", b"m"), ("0.jpg", b"a"), (".DS_Store", b"m")], [(b"a", [])]),
        ([("0.jpg", b"a"), ("0.json", b'{"TEXT": ["x", "y"]}')], [(b"a", ["x", "y"])]),
        ([("0.jpg", b"a"), ("0.text", b"x"), ("0.json", b'{"a":' * 100_000)], [(b"a", ["x"])]),
    ],
)  # fmt: skip
def test_members_are_grouped(tmp_path, members, expected):
    assert read(tmp_path, make_tar(*members)) == expected


@pytest.mark.parametrize("format_", FORMATS)
def test_every_ending_of_a_format_that_is_decoded_is_one_of_images(tmp_path, format_):
    """The endings are those that Pillow knows."""
    Image.init()
    endings = {ending for ending, name in Image.EXTENSION.items() if name == format_}
    assert endings
    for ending in endings:
        data = make_tar((f"0{ending}", b"a"), ("0.txt", b"x"), (f"1{ending.upper()}", b"b"))
        assert read(tmp_path, data) == [(b"a", ["x"]), (b"b", [])], ending


def test_a_joined_tar_is_read_too(tmp_path):
    data = make_tar(("0.jpg", b"a")) + make_tar(("0.jpg", b"b"))
    assert [image for image, _ in read(tmp_path, data)] == [b"a", b"b"]
    assert read(tmp_path, make_tar(("0.jpg", b"a")) + b"x" * 700)[-1] == (None, "bad_tar")


def test_the_caption_column_is_honored(tmp_path):
    data = make_tar(("0.jpg", b"a"), ("0.txt", b"x"), ("0.json", b'{"alt": "y"}'))
    assert read(tmp_path, data, manifest=ManifestConfig(caption_column="ALT")) == [(b"a", ["y"])]
    assert read(tmp_path, data, manifest=ManifestConfig(caption_column="none")) == [(b"a", [])]


def test_large_and_false_sizes_do_not_touch_the_neighbors(tmp_path):
    data = make_tar(("0.jpg", b"a"), ("1.jpg", b"b" * 2000), ("2.jpg", b"c"))
    assert [s for _, s in read(tmp_path, data, max_bytes=1000)] == [[], "too_big", []]
    member = tarfile.TarInfo("9.jpg")
    member.size = 1 << 60
    claimed = make_tar(("0.jpg", b"a"))[:1024] + member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    assert read(tmp_path, claimed) == [(b"a", []), (None, "bad_tar")]
