"""A folder of images beside an annotation file, on a disk or on any store that fsspec reaches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from capfilt.stages.status import Failure
from capfilt.stages.storage.filesystems import open_filesystem, protocol_of
from capfilt.stages.storage.s3_errors import (
    BODYLESS_CODES,
    DENIED,
    code_of,
    is_botocore_error,
    is_refusal,
    reason,
)
from capfilt.stages.storage.store import StoreError

if TYPE_CHECKING:
    from capfilt.stages.fetch.config import FetchConfig

FILE_READERS = 64  # files that are read at once: object stores answer slowly, but many

T = TypeVar("T")


class ImageFolder:
    """Reads files of `image_root`. Belongs to one event loop.

    Args:
        config: the root, the byte cap, and how many files are read at once (`concurrency`, 64 at the most).
    """

    def __init__(self, config: FetchConfig) -> None:
        assert config.image_root is not None, "files are read below image_root"
        self.config, self.root = config, config.image_root
        readers = min(config.concurrency, FILE_READERS)
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self._turns = asyncio.Semaphore(readers)

    async def read(self, path: str, finish: Callable[[bytes], Coroutine[Any, Any, T]]) -> T:
        """Bytes of `path` (below the root, see `stages.fetch.stage.locate`), passed through `finish`.

        Raises:
            Failure: missing_file, too_big or connect.
            StoreError: the store is away, or refuses whatever it is asked for. No row is to blame.
        """
        async with self._turns:
            return await finish(await in_thread(self._threads, self._read, path))

    def _read(self, path: str) -> bytes:
        fs, folder = open_filesystem(self.root, self.config.storage_options)
        try:
            return self._content(fs, f"{folder.rstrip('/')}/{path}")
        except Failure:
            raise
        except Exception as error:  # any library's
            meaning = self._meaning(error, path)
            if meaning is None:
                raise
            raise meaning from error

    def _content(self, fs: Any, place: str) -> bytes:
        try:
            size = fs.info(place)["size"] or 0
        except OSError as error:
            if code_of(error) in BODYLESS_CODES:
                _ask_why(fs, place)
            raise
        if size > self.config.max_bytes:
            raise Failure("too_big", f"{size} bytes, at most {self.config.max_bytes} are taken")
        return bytes(fs.cat_file(place))

    def _meaning(self, error: Exception, path: str) -> Exception | None:
        """What an error of the filesystem ends: the row, or as a StoreError its shard; None if nobody foresaw it."""
        if is_refusal(error):
            return StoreError(f"{self.root.rstrip('/')}/{path}: cannot read it ({reason(error)})")
        # On a disk a file may be closed to us alone; a store that says no more than 403 may do so for a moment.
        closed = isinstance(error, PermissionError) and protocol_of(self.root) == "file"
        if closed or isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
            known = getattr(error, "strerror", None)
            return Failure("missing_file", f"{path}: {known or type(error).__name__}")
        # A store that is busy, a body that broke off, a disk that fails.
        if isinstance(error, (OSError, aiohttp.ClientError)) or is_botocore_error(error):
            return Failure("connect", f"{path}: {reason(error)}")
        return None


def _ask_why(fs: Any, place: str) -> None:
    """Ask a store once more that has refused without a reason: an answer to GET has one.

    Raises:
        Exception: it refuses whoever asks like this, for example with credentials that have expired.
    """
    try:
        fs.cat_file(place, start=0, end=1)
    except Exception as error:
        # Access is also denied to a file that is not there, in a bucket that may not be listed: that is no news.
        if is_refusal(error) and code_of(error) != DENIED:
            raise


async def in_thread(threads: Executor, call: Callable[..., T], *args: Any) -> T:
    """Result of a call that blocks."""
    return await asyncio.get_running_loop().run_in_executor(threads, call, *args)
