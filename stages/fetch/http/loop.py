"""A `Downloader` for synchronous callers: in an event loop of its own that lives as long as the worker."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from capfilt.stages.fetch.http.blocklist import read_block_list
from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.fetch.http.downloader import Downloader

T = TypeVar("T")


class BackgroundDownloader:
    """The web as one worker sees it. What it learns of hosts holds for all stages that share it.

    Picklable: the loop starts on first use in each process, and a copy knows nothing.

    Args:
        config: limits and manners.
        workers: see `Downloader`.
    """

    def __init__(self, config: DownloadConfig, workers: int = 1) -> None:
        self.config, self.workers = config, workers
        self._lock = threading.Lock()
        self._running: tuple[asyncio.AbstractEventLoop, Downloader] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return BackgroundDownloader, (self.config, self.workers)

    def run(self, work: Callable[[Downloader], Coroutine[Any, Any, T]]) -> T:
        """Result of `work` in the loop; the calling thread waits, and may itself be inside another loop."""
        loop, downloader = self._start()
        result = asyncio.run_coroutine_threadsafe(work(downloader), loop)
        try:
            return result.result()
        finally:
            result.cancel()  # interrupted: nothing goes on behind the caller's back

    def _start(self) -> tuple[asyncio.AbstractEventLoop, Downloader]:
        with self._lock:
            if self._running is None:
                blocked = read_block_list(self.config.blocked)
                loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(loop,), name="fetch-loop", daemon=True).start()

                async def make() -> Downloader:
                    return Downloader(self.config, workers=self.workers, blocked=blocked)

                downloader = asyncio.run_coroutine_threadsafe(make(), loop).result()
                weakref.finalize(self, _end, loop, downloader)
                self._running = loop, downloader
            return self._running


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, downloader: Downloader) -> None:
    """Close connections and end the loop; nobody waits for it."""

    async def close() -> None:
        await downloader.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        loop.call_soon(loop.stop)

    asyncio.run_coroutine_threadsafe(close(), loop)
