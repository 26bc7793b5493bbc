"""A `Downloader` for synchronous callers, in a background event loop that lives as long as the worker."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.fetch.http.downloader import Downloader
from capfilt.stages.fetch.urls.blocklist import read_block_list

T = TypeVar("T")


class BackgroundDownloader:
    """A downloader in a thread of its own. Stages that share it share what it knows about hosts.

    Picklable: each process starts its own loop on first use, and a copy starts without knowledge about hosts.

    Args:
        config: limits of the downloads.
        workers: see `Downloader`.
    """

    def __init__(self, config: DownloadConfig, workers: int = 1) -> None:
        self.config, self.workers = config, workers
        self._lock = threading.Lock()
        self._started: tuple[asyncio.AbstractEventLoop, Downloader] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return BackgroundDownloader, (self.config, self.workers)

    def run(self, work: Callable[[Downloader], Coroutine[Any, Any, T]]) -> T:
        """Run `work` in the background loop, block, and return its result. Callable inside another loop."""
        loop, downloader = self._start()
        result = asyncio.run_coroutine_threadsafe(work(downloader), loop)
        try:
            return result.result()
        finally:
            result.cancel()  # after an interrupt: no download continues in the background

    def _start(self) -> tuple[asyncio.AbstractEventLoop, Downloader]:
        with self._lock:
            if self._started is None:
                blocked = read_block_list(self.config.blocked)
                loop = asyncio.new_event_loop()
                threading.Thread(target=_run_loop, args=(loop,), name="fetch-loop", daemon=True).start()

                async def create() -> Downloader:
                    return Downloader(self.config, workers=self.workers, blocked=blocked)

                downloader = asyncio.run_coroutine_threadsafe(create(), loop).result()
                weakref.finalize(self, _shut_down, loop, downloader)
                self._started = loop, downloader
            return self._started


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


def _shut_down(loop: asyncio.AbstractEventLoop, downloader: Downloader) -> None:
    """Close connections and stop the loop, without waiting for either."""

    async def close() -> None:
        await downloader.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        loop.call_soon(loop.stop)

    asyncio.run_coroutine_threadsafe(close(), loop)
