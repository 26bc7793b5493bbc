"""The folder server as a client sees it."""

import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from capfilt.pipeline.corpora.serve import fault_of, serve_folder
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.rows import ROW_SCHEMA, table_of


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "web"
    (root / "images").mkdir(parents=True)
    (root / "images/a.txt").write_text("hello")
    (tmp_path / "secret.txt").write_text("no")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    return root


def test_serves_files_and_nothing_else(folder: Path) -> None:
    with serve_folder(folder) as base:
        assert base.startswith("http://127.0.0.1:") and base.endswith("/")
        with urllib.request.urlopen(f"{base}images/a.txt", timeout=5) as reply:
            assert reply.read() == b"hello"
        for path in ("none.txt", "images/", "../secret.txt", "%2e%2e/secret.txt", "link.txt"):
            assert status(base + path) in (403, 404), path
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{base}images/a.txt", timeout=5)


def test_two_at_once_and_many_in_a_row_leave_nothing_behind(folder: Path) -> None:
    before = threading.active_count()
    with serve_folder(folder) as first, serve_folder(folder) as second:
        assert first != second
        assert status(f"{first}images/a.txt") == status(f"{second}images/a.txt") == 200
    for _ in range(5):
        with serve_folder(folder):
            pass
    assert threading.active_count() == before


def test_ends_when_the_body_raises(folder: Path) -> None:
    with pytest.raises(KeyError), serve_folder(folder):
        raise KeyError
    assert not [t for t in threading.enumerate() if t.name == "serve-folder"]


def test_faults_are_the_same_urls_every_time(folder: Path) -> None:
    paths = [f"/images/{i}.txt" for i in range(2000)]
    chosen = [fault_of(path, {"404": 0.1, "hang": 0.05}) for path in paths]
    assert chosen == [fault_of(path, {"404": 0.1, "hang": 0.05}) for path in paths]
    assert chosen != [fault_of(path, {"404": 0.1, "hang": 0.05}, seed=1) for path in paths]
    assert 150 < chosen.count("404") < 250 and 60 < chosen.count("hang") < 140


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ("404", "http_404"),
        ("429", "success"),
        ("503", "success"),
        ("hang", "timeout"),
        ("reset", "connect"),
        ("html", "not_image"),
    ],
)
def test_what_the_fetch_stage_makes_of_each_fault(folder: Path, fault: str, wanted: str) -> None:
    (folder / "a.ppm").write_bytes(b"P6 32 32 255\n" + bytes(32 * 32 * 3))
    config = FetchConfig(
        allow_private=("127.0.0.1",), deadline_s=1, backoff_s=0.01, image=DecodeConfig(min_side=8)
    )
    rows = table_of([{"key": "0", "url": "a.ppm", "status": "pending"}], ROW_SCHEMA)
    with serve_folder(folder, faults={fault: 1.0}) as base:  # type: ignore[dict-item]
        (row,) = Fetch(FetchConfig(**(vars(config) | {"base_url": base})))(rows).to_pylist()
    assert row["status"] == wanted, row["error_message"]


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"teapot": 0.1}, "allowed: 404"),
        ({"404": 1.5}, "not between 0 and 1"),
        ({"404": 0.6, "hang": 0.6}, "add up to 1.2"),
    ],
)
def test_mistakes(folder: Path, faults: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message), serve_folder(folder, faults=faults):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="no such folder"), serve_folder(folder / "none"):
        pass
