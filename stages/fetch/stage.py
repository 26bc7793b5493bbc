"""Rows → the same rows with image bytes or a status. The web, a folder of images, or bytes that came with a tar.

Nothing that a url, a server or a file does ends in an exception here: every pending row leaves with a status of the
closed list in `stages.status`, and rows that have one already pass untouched. What is no row's doing does: an image
folder whose store is away, and a machine without memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import cv2
import pyarrow as pa

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.http.downloader import Downloader
from capfilt.stages.fetch.http.loop import BackgroundDownloader
from capfilt.stages.fetch.image_folder import ImageFolder, in_thread
from capfilt.stages.fetch.outcomes import Row, decode_outcome, fill_columns, locate, pending_rows
from capfilt.stages.status import INTERNAL, Failure, one_line
from capfilt.stages.storage.store import StoreError


class Fetch:
    """Gets, checks and stores the image of every pending row of a batch.

    Args:
        config: see `FetchConfig`.
        web: the web as this worker sees it, if stages share it; by default this stage has its own.
    """

    def __init__(self, config: FetchConfig, web: BackgroundDownloader | None = None) -> None:
        self.config = config
        self.web = web or BackgroundDownloader(config.manners())
        self._told: Callable[[], None] = lambda: None

    def __reduce__(self) -> tuple[Any, ...]:
        return Fetch, (self.config, self.web)

    def on_progress(self, told: Callable[[], None]) -> None:
        """Have `told` called after every row, in another thread."""
        self._told = told

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows; those that were `pending` have the columns `FILLED` set.

        A pending row that carries an image (it came with a tar) is not asked for again, only checked and stored.

        Raises:
            StoreError: the store of the image folder is away or refuses everything; no row has a status from it.
            MemoryError: the machine has no memory left.
        """
        indices, rows = pending_rows(batch)
        outcomes = self.web.run(partial(self._fetch, rows)) if rows else []
        return fill_columns(batch, indices, outcomes)

    @cached_property
    def _decoding(self) -> Executor:
        # OpenCV's own threads would contend with those that decode.
        return ThreadPoolExecutor(
            self.config.decode_threads, "decode", initializer=cv2.setNumThreads, initargs=(1,)
        )

    @cached_property
    def _files(self) -> ImageFolder:
        return ImageFolder(self.config)

    async def _fetch(self, rows: list[Row], web: Downloader) -> list[Row]:
        web.tidy()
        call = partial(decode_outcome, config=self.config.image, blocked=web.blocked)
        store = partial(in_thread, self._decoding, call)
        tasks = [asyncio.ensure_future(self._row(row, web, store)) for row in rows]
        try:
            return await asyncio.gather(*tasks)
        finally:  # after an error nothing goes on behind the caller's back
            for task in tasks:
                task.cancel()

    async def _row(
        self,
        row: Row,
        web: Downloader,
        store: Callable[[bytes], Coroutine[Any, Any, Row]],
    ) -> Row:
        """What becomes of one row; raises only what is not its doing (see `__call__`)."""
        try:
            if row.get("image") is not None:
                return await store(row["image"])
            if row.get("error_message"):  # the reader found the sample without an image
                raise Failure("missing_file", row["error_message"])
            place, is_web = locate(row["url"], self.config)
            return await (web.download(place, store) if is_web else self._files.read(place, store))
        except Failure as failure:
            return {"status": failure.status, "error_message": failure.message}
        except (StoreError, MemoryError):
            raise
        except Exception as error:  # whosever fault, the shard goes on and the text says what it was
            return {"status": INTERNAL, "error_message": one_line(f"{type(error).__name__}: {error}")}
        finally:
            self._told()
