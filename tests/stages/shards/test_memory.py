"""Files that expand: what a process needs for a bomb is little more than for a harmless file of its size.

Each case runs in a process of its own, which reports the peak of its memory. The bounds are about a tenth of
what a reader that expands the whole file would need.
"""

import gzip
import io
import lzma
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MB = 1 << 20
BASE_MB = 60
"""What Python's and pyarrow's own buffers may take beside the data."""
# Not `getrusage`, whose peak a child process has from its parent.
MEASURE = """
{imports}
def peak():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
{act}
print(peak() - before)
"""


def peak_mb(imports, act):
    """MB by which the memory of a process grows that runs `act`; and what it printed before."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(imports=imports, act=act)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *printed, peak = done.stdout.split("\n")[:-1]
    return int(peak), printed


def read_tar(path, max_bytes=20_000_000):
    """(peak, statuses) of a process that reads an image tar."""
    imports = "from capfilt.stages.shards.tars import iter_samples"
    act = f"""
for row in iter_samples("file://{path}", max_bytes={max_bytes}):
    print(row.get("status", len(row.get("image") or b"")))"""
    return peak_mb(imports, act)


def add(tar, name, data, **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def make_tar(*members):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "0.jpg", b"first")
        for name, data, fields in members:
            add(tar, name, data, **fields)
        add(tar, "9.jpg", b"last")
    return sink.getvalue()


def sparse_member(name, real_size):
    """A GNU sparse member of that size with one byte of data."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"%011o\0" % 1
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0" % (real_size - 1) + b"%011o\0" % 1
    header[483:495] = real_size.to_bytes(12, "big") if real_size >= 8**11 else b"%011o\0" % real_size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"x" + bytes(511)


def test_a_sparse_member_is_refused_without_being_filled(tmp_path):
    whole = make_tar()
    first = 1024  # header and data of the first member
    (tmp_path / "a.tar").write_bytes(whole[:first] + sparse_member("5.jpg", 2_000 * MB) + whole[first:])
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getmember("5.jpg").size == 2_000 * MB
    peak, statuses = read_tar(tmp_path / "a.tar")
    assert statuses == ["5", "bad_tar", "4"] and peak < BASE_MB


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
@pytest.mark.parametrize(("size", "status"), [(19, str(19 * MB)), (21, "too_big")])
def test_a_compressed_member_is_read_up_to_the_limit(tmp_path, compress, size, status):
    (tmp_path / "a.tar").write_bytes(compress(make_tar(("5.jpg", bytes(size * MB), {}))))
    peak, statuses = read_tar(tmp_path / "a.tar")
    assert statuses == ["5", status, "4"] and peak < BASE_MB + 6 * size


def test_a_compressed_tar_expands_to_a_bounded_size(tmp_path):
    """2.5 GB of zeros in 2.5 MB; what precedes the limit is read."""
    piece, sink = bytes(16 * MB), io.BytesIO()
    with gzip.open(sink, "wb", 1) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        add(tar, "0.jpg", b"first")
        for number in range(40):
            add(tar, f"1{number:02}.jpg", piece)
    (tmp_path / "a.tar").write_bytes(sink.getvalue())
    peak, statuses = read_tar(tmp_path / "a.tar")
    assert statuses[0] == "5" and statuses[-1] == "bad_tar" and set(statuses[1:-1]) == {str(16 * MB)}
    limit = (1 << 28) // MB + 16 * len(sink.getvalue()) // MB
    assert len(statuses) - 2 <= limit // 16 and peak < BASE_MB + 3 * limit


def test_links_to_one_member_take_its_memory_a_bounded_number_of_times(tmp_path):
    links = [(f"1{n:03}.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": "0.jpg"}) for n in range(2_000)]
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        add(tar, "0.jpg", bytes(2 * MB))
        for name, data, fields in links:
            add(tar, name, data, **fields)
    (tmp_path / "a.tar").write_bytes(sink.getvalue())
    peak, statuses = read_tar(tmp_path / "a.tar")
    limit = (1 << 28) // MB + 16 * len(sink.getvalue()) // MB
    assert statuses[-1] == "bad_tar" and len(statuses) - 1 <= 1 + limit // 2 and peak < BASE_MB + 2 * limit


@pytest.mark.parametrize("size", [1 << 33, 1 << 60])
def test_a_claimed_size_takes_no_memory(tmp_path, size):
    member = tarfile.TarInfo("5.jpg")
    member.size = size
    claimed = make_tar()[:1024] + member.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    (tmp_path / "a.tar").write_bytes(claimed)
    peak, statuses = read_tar(tmp_path / "a.tar", max_bytes=1 << 62)
    assert statuses == ["5", "bad_tar"] and peak < BASE_MB


INDEX = """
from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.index import build_index
from capfilt.stages.storage.store import Store
"""


def index_file(path):
    """(peak, what was printed) of a process that cuts a manifest into shards."""
    act = f"""
try:
    index = build_index(ManifestConfig(manifest="{path}"), Store("{path}-index"), source="web")
    print(index.rows, index.texts)
except ManifestError as error:
    print(error)"""
    return peak_mb(INDEX, act)


@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_embedded_images_are_not_read_where_url_and_text_are_wanted(tmp_path, kind):
    """120 MB of images, once beside urls, and once as the images of the manifest."""
    images = [np.random.default_rng(n).bytes(MB // 2) for n in range(240)]
    values = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(images)]
    column = pa.array(values if kind == "struct" else images)
    table = pa.table(
        {"url": [f"http://a.test/{n}" for n in range(240)], "picture": column, "text": ["t"] * 240}
    )
    pq.write_table(table, tmp_path / "urls.parquet", row_group_size=60)
    peak, printed = index_file(tmp_path / "urls.parquet")
    assert printed == ["240 240"] and peak < BASE_MB
    if kind == "struct":
        own = table.drop_columns("url").rename_columns(["image", "text"])
        pq.write_table(own, tmp_path / "images.parquet", row_group_size=60)
        peak, printed = index_file(tmp_path / "images.parquet")
        # The page with the first image is read to see whether there are any: here a row group of 30 MB.
        assert printed == ["240 240"] and peak < BASE_MB + 3 * 30


def test_a_line_of_a_compressed_list_takes_bounded_memory(tmp_path):
    """1 GB in one line."""
    sink = io.BytesIO()
    with gzip.open(sink, "wb", 1) as stream:
        stream.write(b"url,caption\nhttp://a.test/1,")
        for _ in range(1000):
            stream.write(b"a" * MB)
    (tmp_path / "a.csv.gz").write_bytes(sink.getvalue())
    peak, printed = index_file(tmp_path / "a.csv.gz")
    assert "line 2 is longer than 16,777,216 characters" in printed[0] and peak < BASE_MB + 160


@pytest.mark.parametrize(("words", "is_refused"), [(13_000, False), (60_000, True)])
def test_a_column_that_repeats_a_long_text_takes_bounded_memory(tmp_path, words, is_refused):
    """A dictionary with one text of 65 or 300 KB: 0.5 and 2.4 GB of texts in a file of a few KB."""
    rows = 8_000
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["word " * words]))
    urls = pa.array([f"http://a.test/{n}" for n in range(rows)])
    pq.write_table(pa.table({"url": urls, "caption": texts}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < MB
    peak, printed = index_file(tmp_path / "a.parquet")
    if is_refused:  # a shard of 1,000 rows would have 300 MB of texts
        assert "have more than 268,435,456 characters" in printed[0]
    else:
        assert printed == [f"{rows} {rows}"]
    assert peak < BASE_MB + 8 * 65  # a shard of 65 MB, or 256 rows of 300 KB
