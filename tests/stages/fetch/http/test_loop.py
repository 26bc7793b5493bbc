"""A downloader in a background thread: results, exceptions, and its end."""

import asyncio
import gc
import threading
from pathlib import Path

import pytest

from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.fetch.http.downloader import Downloader
from capfilt.stages.fetch.http.loop import BackgroundDownloader
from capfilt.stages.storage.artifacts import ArtifactError


async def find_thread(_: Downloader) -> threading.Thread:
    return threading.current_thread()


async def fail(_: Downloader) -> None:
    raise KeyError("x")


def test_work_runs_in_one_thread_that_ends_with_the_downloader() -> None:
    downloader = BackgroundDownloader(DownloadConfig())
    thread = downloader.run(find_thread)
    assert downloader.run(find_thread) is thread is not threading.current_thread()
    with pytest.raises(KeyError, match="x"):
        downloader.run(fail)
    assert thread.is_alive()
    del downloader
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_inside_a_running_event_loop() -> None:
    async def notebook() -> threading.Thread:
        return BackgroundDownloader(DownloadConfig()).run(find_thread)

    assert asyncio.run(notebook()) is not threading.current_thread()


def test_block_lists_are_read_before_the_first_download(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    downloader = BackgroundDownloader(DownloadConfig(blocked=(str(path),)))
    with pytest.raises(ArtifactError, match="cannot read"):
        downloader.run(find_thread)
    path.write_text("a.test\n")

    async def blocked_hosts(downloader: Downloader) -> frozenset[str]:
        return downloader.blocked.hosts

    assert downloader.run(blocked_hosts) == {"a.test"}
