"""A folder of images: on disk, and on an S3 server that is unavailable, refuses, or sends a bare 403."""

import os
import socket
import time
from functools import partial

import pytest
from fsspec.implementations.local import LocalFileSystem

from capfilt.cluster.chain.steps import StageRunner, Step
from capfilt.pipeline.nodes.chain import ISOLATION
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.status import STATUSES
from capfilt.stages.storage.store import Store, StoreError
from tests.s3_server import ENVIRONMENT, S3Fault
from tests.stages.fetch.hostile_server import JPEG, HostileServer, fetch_config, http_response, make_batch

UNAVAILABLE = {  # trouble, code in the error message
    "missing bucket": (S3Fault("no_bucket"), "NoSuchBucket"),
    "expired credentials": (S3Fault("expired"), "ExpiredToken"),
    "unknown credentials": (S3Fault("unknown_key"), "InvalidAccessKeyId"),
    "denied content": (S3Fault("denied", method="GET"), "AccessDenied"),
}


@pytest.fixture
def folder(healthy_s3, request):
    """Three images on the server, in a folder of the test's own."""
    store = Store(f"s3://bucket/{request.node.originalname}", {"endpoint_url": healthy_s3.endpoint})
    for name in "abc":
        store.put(f"{name}.jpg", JPEG)
    return store


def fetch(folder, **options):
    return Fetch(fetch_config(image_root=folder.url, storage_options=folder.options | options))


def statuses_by_url(table):
    return dict(zip(table["url"].to_pylist(), table["status"].to_pylist(), strict=True))


@pytest.mark.parametrize(("trouble", "code"), UNAVAILABLE.values(), ids=UNAVAILABLE)
def test_unavailable_store_fails_the_shard_and_no_row(s3, folder, trouble, code):
    stage, batch = fetch(folder), make_batch("a.jpg", "none.jpg", "b.jpg")
    assert statuses_by_url(stage(batch)) == {
        "a.jpg": "success",
        "none.jpg": "missing_file",
        "b.jpg": "success",
    }
    s3.inject(trouble)
    with pytest.raises(StoreError) as error:
        stage(batch)
    line = str(error.value)
    assert f"{folder.url}/" in line and code in line and "\n" not in line
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in line
    s3.clear_faults()
    assert statuses_by_url(stage(batch)) == {
        "a.jpg": "success",
        "none.jpg": "missing_file",
        "b.jpg": "success",
    }


def test_missing_credentials_or_connection_fail_no_row(s3, folder, monkeypatch):
    nowhere = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    with pytest.raises(StoreError, match=r"/a\.jpg: cannot read it \(EndpointConnectionError: "):
        fetch(folder, **nowhere)(make_batch("a.jpg"))
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    with pytest.raises(StoreError, match=r"/a\.jpg: cannot read it \(NoCredentialsError: "):
        fetch(folder, max_paths=9)(make_batch("a.jpg"))


def test_403_without_a_reason_is_a_retryable_failure_of_the_row(s3, folder):
    # Without the permission ListBucket, S3 answers the same for a missing key.
    s3.inject(S3Fault("denied", path=".*(b|none).jpg"))
    out = fetch(folder)(make_batch("a.jpg", "b.jpg", "none.jpg", "c.jpg"))
    assert statuses_by_url(out) == {
        "a.jpg": "success",
        "b.jpg": "connect",
        "none.jpg": "connect",
        "c.jpg": "success",
    }
    assert STATUSES["connect"].retryable
    assert out["error_message"].to_pylist()[1] == "b.jpg: 403: Forbidden"
    methods = [method for method, path, _ in s3.requests() if path.endswith("none.jpg")]
    assert methods == ["HEAD", "GET"]


def test_truncated_body_is_a_failure_of_the_row(s3, folder):
    s3.inject(S3Fault("truncate", method="GET", path=".*b.jpg"))
    assert statuses_by_url(fetch(folder)(make_batch("a.jpg", "b.jpg"))) == {
        "a.jpg": "success",
        "b.jpg": "connect",
    }


def test_after_an_error_of_the_store_no_read_continues(s3, folder):
    stage = fetch(folder)
    s3.inject(S3Fault("no_bucket"))
    with pytest.raises(StoreError):
        stage(make_batch(*(f"{number}.jpg" for number in range(600))))
    time.sleep(1.0)
    assert len(s3.requests()) < 400  # 64 readers x 2 requests, repeated once; 1,200 if all went on


def test_error_of_the_store_does_not_bisect_the_rows(s3, folder):
    step = Step(
        name="fetch",
        make=partial(fetch, folder),
        isolation=ISOLATION,
    )
    runner = StageRunner(step)
    s3.inject(S3Fault("no_bucket"))
    with pytest.raises(StoreError, match="NoSuchBucket"):
        runner(make_batch("a.jpg", "b.jpg", "ftp://no/store", "c.jpg"))


def test_unreadable_file_on_disk_fails_one_row(tmp_path, monkeypatch):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    read = LocalFileSystem.cat_file

    def deny(self, path, **options):
        if path.endswith("b.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return read(self, path, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", deny)
    out = Fetch(fetch_config(image_root=str(tmp_path)))(make_batch("a.jpg", "b.jpg"))
    assert statuses_by_url(out) == {"a.jpg": "success", "b.jpg": "missing_file"}
    assert out["error_message"].to_pylist()[1] == "b.jpg: Permission denied"


def test_only_regular_files_are_read(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(JPEG)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "linked pipe.jpg").symlink_to(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.jpg"))
        names = sorted(path.name for path in folder.iterdir())
        out = Fetch(fetch_config(image_root=str(folder)))(make_batch(*names))
    expected = dict.fromkeys(names, "missing_file") | {"a.jpg": "success", "link.jpg": "success"}
    assert statuses_by_url(out) == expected
    messages = dict(zip(names, out["error_message"].to_pylist(), strict=True))
    assert messages["pipe.jpg"] == "pipe.jpg is a pipe, device or socket, not a regular file"
    assert messages["folder.jpg"] == "folder.jpg is a folder, not a regular file"


@pytest.mark.parametrize("size", [0, 10, None])
def test_the_limit_holds_for_what_is_read(tmp_path, monkeypatch, size):
    (tmp_path / "grown.jpg").write_bytes(JPEG)
    info = LocalFileSystem.info
    monkeypatch.setattr(LocalFileSystem, "info", lambda *args, **kw: info(*args, **kw) | {"size": size})
    for limit, status in ((len(JPEG), "success"), (len(JPEG) - 1, "too_big")):
        stage = Fetch(fetch_config(image_root=str(tmp_path), max_bytes=limit))
        assert stage(make_batch("grown.jpg"))["status"].to_pylist() == [status]


def test_names_with_colons_and_backslashes_and_absolute_paths(tmp_path):
    names = ["a:b.jpg", "a\\b.jpg", "d/x.jpg"]
    (tmp_path / "d").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(JPEG)
    urls = [*names, "d\\x.jpg", str(tmp_path / "d/x.jpg"), (tmp_path / "d/x.jpg").as_uri(), "/etc/hostname"]
    (tmp_path.parent / "outside.jpg").write_bytes(JPEG)
    out = Fetch(fetch_config(image_root=str(tmp_path)))(make_batch(*urls, "d\\..\\..\\outside.jpg"))
    assert out["status"].to_pylist() == ["success"] * 6 + ["bad_url", "missing_file"]


class WebFolder(HostileServer):
    """/images/ with an image, one that redirects to a private name, an endless one and a gzip bomb."""

    def respond(self, path, count, host):
        if path == "/images/moved.jpg":
            return http_response(status="302 Found", Location="http://printer.test/status")
        return super().respond(path.replace("/images/", "/"), count, host)


@pytest.mark.usefixtures("loopback_only")
def test_folder_on_the_web_has_the_limits_and_checks_of_the_downloader():
    with WebFolder() as server:
        stage = Fetch(fetch_config(image_root=server.url("/images")))
        expected = {
            "a.jpg": "success",
            "moved.jpg": "private_address",
            "endless": "too_big",
            "gzip-bomb": "too_big",
            "%2e%2e/a.jpg": "bad_url",
            "../a.jpg": "bad_url",
        }
        assert statuses_by_url(stage(make_batch(*expected))) == expected
        assert all(path.startswith(("/images/", "/robots.txt")) for path in server.requests)
        private = Fetch(fetch_config(image_root=server.url("/images"), allow_private=()))
        assert statuses_by_url(private(make_batch("a.jpg"))) == {"a.jpg": "private_address"}


@pytest.mark.parametrize(
    ("root", "options"),
    [
        ("http://a.test/", {"headers": {}}),
        ("simplecache::https://a.test/", {}),
        ("zip://a.zip::http://a.test/b.zip", {}),
    ],
)
def test_no_folder_on_the_web_bypasses_the_downloader(root, options):
    with pytest.raises(ValueError, match=r"downloader, .*remove them$|without the checks of the downloader"):
        fetch_config(image_root=root, storage_options=options)
