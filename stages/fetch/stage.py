"""The fetch stage: rows in, the same rows with image bytes or a failure status out.

An image comes from a url, from a folder of images, or with the row (from a tar). A bad url, server or file
raises no exception: every pending row gets a status of the closed list in `stages.status`, and rows that
already have one pass unchanged. The stage only raises for failures that are not a row's own: a store that
cannot be reached, and a machine that is out of memory.
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
from capfilt.stages.fetch.image_folder import ImageFolder, run_in_thread
from capfilt.stages.fetch.outcomes import Row, decode_outcome, fill_columns, locate_image, pending_rows
from capfilt.stages.status import INTERNAL, Failure, one_line
from capfilt.stages.storage.store import StoreError


class Fetch:
    """Downloads, checks and encodes the image of every pending row of a batch.

    Args:
        config: see `FetchConfig`.
        downloader: a downloader shared with other stages; by default the stage has its own.
    """

    def __init__(self, config: FetchConfig, downloader: BackgroundDownloader | None = None) -> None:
        self.config = config
        self.downloader = downloader or BackgroundDownloader(config.host_settings())
        self._report_progress: Callable[[], None] = lambda: None

    def __reduce__(self) -> tuple[Any, ...]:
        return Fetch, (self.config, self.downloader)

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every row, from another thread."""
        self._report_progress = callback

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Fetch a batch.

        A pending row that has an image already (from a tar) is not downloaded, only checked and encoded.

        Returns:
            The same rows, with `OUTCOME_COLUMNS` set where the status was `pending`.

        Raises:
            StoreError: the store of the image folder cannot be reached or refuses every request.
            MemoryError: the machine is out of memory.
        """
        indices, rows = pending_rows(batch)
        outcomes = self.downloader.run(partial(self._fetch_rows, rows)) if rows else []
        return fill_columns(batch, indices, outcomes)

    @cached_property
    def _decode_threads(self) -> Executor:
        # OpenCV's own threads would compete with these for the cores.
        return ThreadPoolExecutor(
            self.config.decode_threads, "decode", initializer=cv2.setNumThreads, initargs=(1,)
        )

    @cached_property
    def _image_folder(self) -> ImageFolder:
        return ImageFolder(self.config)

    async def _fetch_rows(self, rows: list[Row], downloader: Downloader) -> list[Row]:
        """Outcomes of the rows, in order; after an exception no row continues in the background."""
        downloader.evict_unused()
        decode = partial(decode_outcome, config=self.config.image, blocked=downloader.blocked)
        decode_in_thread = partial(run_in_thread, self._decode_threads, decode)
        tasks = [asyncio.ensure_future(self._fetch_row(row, downloader, decode_in_thread)) for row in rows]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _fetch_row(
        self, row: Row, downloader: Downloader, decode: Callable[..., Coroutine[Any, Any, Row]]
    ) -> Row:
        """Outcome of one row; raises only what is not the row's own failure (see `__call__`)."""
        spoken: set[str] = set()
        try:
            if expected := row.get("expected_hash"):
                decode = _with_promise(decode, expected)
            if row.get("image") is not None:
                return await decode(row["image"])
            if row.get("error_message"):  # the reader found a sample without an image
                raise Failure("missing_file", row["error_message"])
            location, is_web = locate_image(row["url"], self.config)
            if is_web:
                return _with_signals(await downloader.download(location, decode, spoken), spoken)
            return await self._image_folder.read(location, decode)
        except Failure as failure:
            outcome = {"status": failure.status, "error_message": failure.message}
            return _with_signals(outcome, spoken)
        except (StoreError, MemoryError):
            raise
        except Exception as error:  # unexpected: the other rows of the shard continue
            return {"status": INTERNAL, "error_message": one_line(f"{type(error).__name__}: {error}")}
        finally:
            self._report_progress()


def _with_signals(outcome: Row, spoken: set[str]) -> Row:
    """An outcome with the opt-out signals that spoke against the url."""
    return outcome | ({"optout_signal": ", ".join(sorted(spoken))} if spoken else {})


def _with_promise(
    decode: Callable[..., Coroutine[Any, Any, Row]], expected_hash: str
) -> Callable[[bytes], Coroutine[Any, Any, Row]]:
    """`decode`, with the promised hash of the bytes."""
    return lambda data: decode(data, expected_hash)
