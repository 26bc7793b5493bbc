"""Finding the files of a manifest, its identity, and the content of index.json."""

import hashlib
import json
import os
import tarfile

import pytest

from capfilt.stages.manifest import cut
from capfilt.stages.manifest import index as manifest
from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.index import build_index, check_unchanged
from capfilt.stages.storage.store import Store
from tests.s3_server import S3Fault

CSV = b"url,caption\nhttp://a.test/1,one\nhttp://a.test/2,two\n"
SETTINGS = (None, None, None, (), 1000)  # columns and shard size by default


@pytest.fixture
def bucket(healthy_s3, request):
    """A folder on the S3 server; the endpoint is a storage option."""
    return Store(f"s3://bucket/{request.node.originalname}", {"endpoint_url": healthy_s3.endpoint})


def build_identity(folder, pattern, **config):
    index = build_index(ManifestConfig(manifest=pattern, **config), Store(str(folder)), source="web")
    return index.identity


def expected_identity(*files, settings=SETTINGS):
    """The identity of files given as (name, size, version)."""
    lines = "".join(f"{name}\0{size}\0{version}\n" for name, size, version in files)
    return hashlib.sha256(lines.encode() + repr(settings).encode()).hexdigest()


@pytest.mark.parametrize(
    ("pattern", "requests"),
    [("", ["GET"] * 2), ("/*.json", ["GET"] * 2), ("/00*.json", ["GET"] * 2), ("/000007.json", ["HEAD"])],
)
def test_a_listing_costs_one_request_per_thousand_files(s3, bucket, tmp_path, pattern, requests):
    s3.fill(bucket.path().removeprefix("bucket/"), 1200)
    s3.clear_faults()
    config = ManifestConfig(manifest=f"{bucket.url}{pattern}", storage_options=bucket.options)
    check_unchanged(config, Store(str(tmp_path)), "sources.web.rows")
    assert [method for method, *_ in s3.requests()] == requests
    assert all("list-type=2" in query for method, _, query in s3.requests() if method == "GET")


def test_identity_on_a_store_does_not_depend_on_how_the_files_are_named(bucket, tmp_path):
    contents = {"a.csv": CSV, "b.csv": CSV * 2}
    for name, data in contents.items():
        bucket.put(name, data)
    named = tuple(bucket.address(name) for name in contents)
    etags = [(name, len(data), f'"{hashlib.md5(data).hexdigest()}"') for name, data in contents.items()]
    for number, pattern in enumerate((bucket.url, f"{bucket.url}/*.csv", f"{bucket.url}/?.csv", named)):
        identity = build_identity(tmp_path / str(number), pattern, storage_options=bucket.options)
        assert identity == expected_identity(*etags)


def test_identity_on_a_disk_follows_links(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_bytes(CSV)
    (tmp_path / "far.csv").write_bytes(CSV)
    (tmp_path / "in/b.csv").symlink_to(tmp_path / "far.csv")
    os.utime(tmp_path / "far.csv", (1e9, 1e9))
    versions = [(name, len(CSV), (tmp_path / "in" / name).stat().st_mtime) for name in ("a.csv", "b.csv")]
    assert versions[1][2] == 1e9
    named = tuple(str(tmp_path / "in" / name) for name in ("a.csv", "b.csv"))
    for number, pattern in enumerate((str(tmp_path / "in"), str(tmp_path / "in/*.csv"), named)):
        assert build_identity(tmp_path / str(number), pattern) == expected_identity(*versions)


def test_captions_beside_urls_are_part_of_the_identity(tmp_path):
    for part in ("urls", "captions"):
        (tmp_path / f"x_{part}.txt").write_bytes(b"line\n")
    paths = [tmp_path / "x_urls.txt", tmp_path / "x_captions.txt"]
    versions = [(path.name, 5, path.stat().st_mtime) for path in paths]
    assert build_identity(tmp_path / "run", str(paths[0])) == expected_identity(*versions)


def test_other_splits_or_another_format_change_the_manifest(tmp_path):
    images = [
        {"filename": f"{split}.jpg", "split": split, "sentences": [{"raw": split}]}
        for split in ("train", "val")
    ]
    (tmp_path / "k.json").write_text(json.dumps({"images": images}))
    (tmp_path / "k.csv").write_bytes(CSV)
    store = Store(str(tmp_path / "index"))
    karpathy = ManifestConfig(manifest=str(tmp_path / "k.json"), splits=("train",))
    build_index(karpathy, store, source="web")
    for other in (("val",), ("train", "val"), ()):
        config = ManifestConfig(manifest=str(tmp_path / "k.json"), splits=other)
        with pytest.raises(ManifestError, match="has changed since this run cut it"):
            check_unchanged(config, store, "sources.web.rows")
    check_unchanged(karpathy, store, "sources.web.rows")
    by_suffix, as_csv = (
        build_identity(tmp_path / f, str(tmp_path / "k.csv"), format=f) for f in ("auto", "csv")
    )
    assert by_suffix != as_csv


def test_an_index_of_an_earlier_version_is_accepted(tmp_path):
    (tmp_path / "k.json").write_text(
        json.dumps({"images": [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "x"}]}]})
    )
    store = Store(str(tmp_path / "index"))
    config = ManifestConfig(manifest=str(tmp_path / "k.json"), splits=("train",))
    build_index(config, store, source="web")
    stat = (tmp_path / "k.json").stat()
    before = {"rows": 1, "shards": 1, "files": [str(tmp_path / "k.json")]}
    before["identity"] = expected_identity(("k.json", stat.st_size, stat.st_mtime))
    store.put_json("index.json", before)
    index = build_index(config, store, source="web")
    assert (index.rows, index.shards, index.tars, index.parts, index.has_tars) == (1, 1, 0, (), False)
    store.put_json("index.json", before | {"files": ["a.tar", "b.csv", "c.tar"]})
    index = build_index(config, store, source="web")
    assert (index.tars, index.has_tars) == (2, True)


def test_index_json_describes_the_index(tmp_path, monkeypatch):
    for module in (cut, manifest):
        monkeypatch.setattr(module, "SHARDS_PER_PART", 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_bytes(CSV)
    for name in ("b.tar", "c.tar"):
        tarfile.open(tmp_path / "in" / name, "w").close()
    store = Store(str(tmp_path / "index"))
    config = ManifestConfig(manifest=str(tmp_path / "in"), shard_size=1)
    index = build_index(config, store, source="web")
    record = store.read_json("index.json")
    assert (record["rows"], record["shards"], record["tars"]) == (4, 4, 2) and index.has_tars
    files = [tmp_path / "index/parts" / name for name in ("00000.parquet", "00001.parquet")]
    assert record["parts"] == [
        {
            "name": file.name,
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in files
    ]
    assert build_index(config, store, source="web") == index


def test_tars_are_counted_by_their_format_and_not_by_their_suffix(tmp_path):
    tarfile.open(tmp_path / "samples.data", "w").close()
    (tmp_path / "list.tar").write_bytes(CSV)
    for name, format_, tars in (("samples.data", "tar", 1), ("list.tar", "csv", 0)):
        config = ManifestConfig(manifest=str(tmp_path / name), format=format_)
        assert build_index(config, Store(str(tmp_path / format_)), source="web").tars == tars


@pytest.mark.parametrize("content", [b'{"rows": 2, "sha', b"", b"\xff\xfe\x00", b"[]", b'{"rows": 2}'])
def test_a_damaged_index_is_one_line_that_names_the_repair(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(CSV)
    store = Store(str(tmp_path / "index"))
    config = ManifestConfig(manifest=str(tmp_path / "a.csv"))
    build_index(config, store, source="web")
    store.put("index.json", content)
    for call in (
        lambda: build_index(config, store, source="web"),
        lambda: check_unchanged(config, store, "sources.web.rows"),
    ):
        with pytest.raises(ManifestError) as error:
            call()
        line = str(error.value)
        assert line.startswith(f"{tmp_path}/index/index.json: damaged (") and "\n" not in line
        assert line.endswith("capfilt verify RUN --repair fixes it")


def test_a_folder_may_have_the_suffix_of_a_file(bucket, tmp_path):
    for name in ("part-0.csv", "part-1.csv", "_SUCCESS", "notes.txt"):
        bucket.put(f"list.csv/{name}", CSV)
    config = ManifestConfig(manifest=bucket.address("list.csv"), storage_options=bucket.options)
    index = build_index(config, Store(str(tmp_path)), source="web")
    assert [name.rpartition("/")[2] for name in index.files] == ["part-0.csv", "part-1.csv"]


def test_an_absent_bucket_is_an_error_and_not_an_empty_folder(s3, bucket, tmp_path):
    bucket.put("a.csv", CSV)
    for suffix in ("", "/*.csv", "/a*.csv", "/a.csv"):
        config = ManifestConfig(manifest=f"{bucket.url}{suffix}", storage_options=bucket.options)
        s3.clear_faults()
        check_unchanged(config, Store(str(tmp_path)), "sources.web.rows")
        s3.inject(S3Fault("no_bucket"))
        with pytest.raises(
            ManifestError, match=r"sources\.web\.rows\.manifest: cannot read s3://.*NoSuchBucket"
        ):
            check_unchanged(config, Store(str(tmp_path)), "sources.web.rows")


def test_the_query_of_a_web_address_never_appears_in_messages(s3, bucket, tmp_path):
    for name, data in (("list.csv", CSV), ("list.weird", CSV), ("broken.parquet", b"PAR1 no")):
        bucket.fs.pipe_file(bucket.path(name), data, ACL="public-read")
    base = f"{s3.endpoint}/{bucket.path()}"
    index = build_index(
        ManifestConfig(manifest=f"{base}/list.csv?v=s3cr3t"), Store(str(tmp_path)), source="web"
    )
    assert (index.rows, index.files) == (2, (f"{base}/list.csv",))
    for name, message in (
        ("list.weird", "unknown suffix of"), ("broken.parquet", "cannot read"), ("none.csv", "no file at"),
    ):  # fmt: skip
        with pytest.raises(ManifestError, match=message) as error:
            build_identity(tmp_path / name, f"{base}/{name}?v=s3cr3t")
        assert f"{base}/{name}" in str(error.value) and "s3cr3t" not in str(error.value)
