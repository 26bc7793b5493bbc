"""The folder server as its clients see it."""

import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from aiohttp import web

from capfilt.pipeline.corpora.serve import serve_app, serve_folder
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.rows import ROW_SCHEMA, table_of
from tests.pipeline.corpora.faulty_server import serve_with_fault


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_only_the_given_address_is_listened_on(folder: Path, host: str) -> None:
    with serve_folder(folder, host) as base:
        assert base.startswith(f"http://{host}:") and status(f"{base}images/a.txt") == 200
        port = urllib.parse.urlsplit(base).port
        other = "127.0.0.3"
        with pytest.raises(urllib.error.URLError, match="refused"):
            status(f"http://{other}:{port}/images/a.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "web"
    (root / "images").mkdir(parents=True)
    (root / "images/a.txt").write_text("hello")
    (tmp_path / "secret.txt").write_text("no")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    return root


def test_only_files_in_the_folder_are_served(folder: Path) -> None:
    with serve_folder(folder) as base:
        assert base.startswith("http://127.0.0.1:") and base.endswith("/")
        with urllib.request.urlopen(f"{base}images/a.txt", timeout=5) as reply:
            assert reply.read() == b"hello"
        for path in ("none.txt", "images/", "../secret.txt", "%2e%2e/secret.txt", "link.txt"):
            assert status(base + path) in (403, 404), path
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{base}images/a.txt", timeout=5)


def test_concurrent_and_successive_servers_leave_no_threads(folder: Path) -> None:
    before = threading.active_count()
    with serve_folder(folder) as first, serve_folder(folder) as second:
        assert first != second
        assert status(f"{first}images/a.txt") == status(f"{second}images/a.txt") == 200
    for _ in range(5):
        with serve_folder(folder):
            pass
    assert threading.active_count() == before


def test_server_stops_when_the_body_raises(folder: Path) -> None:
    with pytest.raises(KeyError), serve_folder(folder):
        raise KeyError
    assert not [t for t in threading.enumerate() if t.name == "serve-folder"]


def test_error_during_the_start_reaches_the_caller() -> None:
    async def fail(app: web.Application) -> None:
        raise OSError("no port left")

    app = web.Application()
    app.on_startup.append(fail)
    with pytest.raises(RuntimeError, match="did not start") as raised, serve_app(app):
        pass
    assert str(raised.value.__cause__) == "no port left"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("404", "http_404"),
        ("429", "success"),
        ("503", "success"),
        ("hang", "timeout"),
        ("reset", "connect"),
        ("html", "not_image"),
    ],
)
def test_fetch_stage_gives_each_fault_its_status(folder: Path, fault: str, expected: str) -> None:
    (folder / "a.ppm").write_bytes(b"P6 32 32 255\n" + bytes(32 * 32 * 3))
    config = FetchConfig(
        allow_private=("127.0.0.1",), deadline_s=1, backoff_s=0.01, image=DecodeConfig(min_side=8)
    )
    rows = table_of([{"key": "0", "url": "a.ppm", "status": "pending"}], ROW_SCHEMA)
    with serve_with_fault(folder, fault) as base:
        (row,) = Fetch(FetchConfig(**(vars(config) | {"base_url": base})))(rows).to_pylist()
    assert row["status"] == expected, row["error_message"]


def test_missing_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"), serve_folder(folder / "none"):
        pass
