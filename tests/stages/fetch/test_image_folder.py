"""A folder of images on an S3 server that is away, refuses, or says no more than 403; and on a disk."""

import time
from functools import partial

import pytest
from fsspec.implementations.local import LocalFileSystem

from capfilt.cluster.chain.engine import StageRunner, Step
from capfilt.pipeline.nodes.chain import ISOLATION
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.status import STATUSES
from capfilt.stages.storage.store import Store, StoreError
from tests.s3_server import ENVIRONMENT, Trouble
from tests.stages.fetch.hostile import JPEG, config, rows

AWAY = {  # trouble, what the one line says
    "bucket that is gone": (Trouble("gone"), "NoSuchBucket"),
    "credentials that have expired": (Trouble("expired"), "ExpiredToken"),
    "credentials nobody knows": (Trouble("stranger"), "InvalidAccessKeyId"),
    "content that is denied": (Trouble("denied", method="GET"), "AccessDenied"),
}


@pytest.fixture
def folder(calm_s3, request):
    """Three pictures on the server, below an address of their own."""
    store = Store(f"s3://bucket/{request.node.originalname}", {"endpoint_url": calm_s3.endpoint})
    for name in "abc":
        store.put(f"{name}.jpg", JPEG)
    return store


def fetch(folder, **options):
    return Fetch(config(image_root=folder.url, storage_options=folder.options | options))


def outcomes(table):
    return dict(zip(table["url"].to_pylist(), table["status"].to_pylist(), strict=True))


@pytest.mark.parametrize(("trouble", "code"), AWAY.values(), ids=AWAY)
def test_a_store_that_is_away_ends_the_shard_and_no_row(s3, folder, trouble, code):
    stage, batch = fetch(folder), rows("a.jpg", "none.jpg", "b.jpg")
    assert outcomes(stage(batch)) == {"a.jpg": "success", "none.jpg": "missing_file", "b.jpg": "success"}
    s3.trouble(trouble)
    with pytest.raises(StoreError) as error:
        stage(batch)
    line = str(error.value)
    assert f"{folder.url}/" in line and code in line and "\n" not in line
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in line
    s3.calm()  # it is back
    assert outcomes(stage(batch)) == {"a.jpg": "success", "none.jpg": "missing_file", "b.jpg": "success"}


def test_without_credentials_or_connection_no_row_ends(s3, folder, monkeypatch):
    nowhere = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"total_max_attempts": 1}}}
    with pytest.raises(StoreError, match=r"/a\.jpg: cannot read it \(EndpointConnectionError: "):
        fetch(folder, **nowhere)(rows("a.jpg"))
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    with pytest.raises(StoreError, match=r"/a\.jpg: cannot read it \(NoCredentialsError: "):
        fetch(folder, max_paths=9)(rows("a.jpg"))


def test_a_403_without_a_reason_may_pass_and_is_the_files_own(s3, folder):
    s3.trouble(
        Trouble("denied", path=".*(b|none).jpg")
    )  # so is answered for keys that are absent, without ListBucket
    out = fetch(folder)(rows("a.jpg", "b.jpg", "none.jpg", "c.jpg"))
    assert outcomes(out) == {
        "a.jpg": "success",
        "b.jpg": "connect",
        "none.jpg": "connect",
        "c.jpg": "success",
    }
    assert STATUSES["connect"].retryable
    assert out["error_message"].to_pylist()[1] == "b.jpg: 403: Forbidden"
    asked = [method for method, path, _ in s3.requests() if path.endswith("none.jpg")]
    assert asked == ["HEAD", "GET"]


def test_a_body_that_never_comes_whole_is_the_files_own(s3, folder):
    s3.trouble(Trouble("cut", method="GET", path=".*b.jpg"))
    assert outcomes(fetch(folder)(rows("a.jpg", "b.jpg"))) == {"a.jpg": "success", "b.jpg": "connect"}


def test_after_an_error_of_the_store_nothing_goes_on(s3, folder):
    stage = fetch(folder)
    s3.trouble(Trouble("gone"))
    with pytest.raises(StoreError):
        stage(rows(*(f"{number}.jpg" for number in range(600))))
    time.sleep(1.0)
    assert len(s3.requests()) < 400  # 64 readers with two requests each, and again; 1,200 without an end


def test_rows_are_not_searched_for_one_that_has_a_store_away(s3, folder):
    step = Step(
        name="fetch",
        make=partial(fetch, folder),
        isolation=ISOLATION,
    )
    runner = StageRunner(step)
    s3.trouble(Trouble("gone"))
    with pytest.raises(StoreError, match="NoSuchBucket"):
        runner(rows("a.jpg", "b.jpg", "ftp://no/store", "c.jpg"))


def test_a_file_of_a_disk_that_is_closed_to_us_is_one_row(tmp_path, monkeypatch):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    read = LocalFileSystem.cat_file

    def closed(self, path, **options):
        if path.endswith("b.jpg"):
            raise PermissionError(13, "Permission denied", path)
        return read(self, path, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", closed)
    out = Fetch(config(image_root=str(tmp_path)))(rows("a.jpg", "b.jpg"))
    assert outcomes(out) == {"a.jpg": "success", "b.jpg": "missing_file"}
    assert out["error_message"].to_pylist()[1] == "b.jpg: Permission denied"
