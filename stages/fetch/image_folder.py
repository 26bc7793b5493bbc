"""Reads images from a folder (`image_root`), local or on any store that fsspec supports."""

from __future__ import annotations

import asyncio
import posixpath
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
    describe_error,
    is_botocore_error,
    is_refusal,
)
from capfilt.stages.storage.store import StoreError

if TYPE_CHECKING:
    from capfilt.stages.fetch.config import FetchConfig

MAX_READERS = 64
"""Files that are read concurrently: a request to an object store takes long, but many can run at a time."""

T = TypeVar("T")


class ImageFolder:
    """Reads files below `image_root`. Belongs to one event loop.

    Args:
        config: the root, the byte limit, and the number of concurrent reads (`concurrency`, at most 64).
    """

    def __init__(self, config: FetchConfig) -> None:
        assert config.image_root is not None, "an ImageFolder needs image_root"
        self.config, self.root = config, config.image_root
        readers = min(config.concurrency, MAX_READERS)
        self._threads = ThreadPoolExecutor(readers, thread_name_prefix="read")
        self._slots = asyncio.Semaphore(readers)

    async def read(self, path: str, consume: Callable[[bytes], Coroutine[Any, Any, T]]) -> T:
        """Read `path`, which is relative to the root, and pass its bytes to `consume`.

        Raises:
            Failure: missing_file, too_big or connect.
            StoreError: the store cannot be reached or refuses every request. No row fails for it.
        """
        async with self._slots:
            return await consume(await run_in_thread(self._threads, self._read, path))

    def _read(self, path: str) -> bytes:
        fs, folder = open_filesystem(self.root, self.config.storage_options)
        try:
            try:
                return self._read_file(fs, f"{folder.rstrip('/')}/{path}")
            except FileNotFoundError:
                windows = posixpath.normpath(path.replace("\\", "/"))
                if "\\" not in path or windows.startswith(("/", "../")):
                    raise
                return self._read_file(fs, f"{folder.rstrip('/')}/{windows}")
        except Failure:
            raise
        except Exception as error:  # of any fsspec backend
            translated = self._translate_error(error, path)
            if translated is None:
                raise
            raise translated from error

    def _read_file(self, fs: Any, file: str) -> bytes:
        try:
            info = fs.info(file)
        except OSError as error:
            if code_of(error) in BODYLESS_CODES:
                _raise_if_refused(fs, file)
            raise
        limit = self.config.max_bytes
        if info["type"] not in ("file", "link"):
            kind = "a folder" if info["type"] == "directory" else "a pipe, device or socket"
            raise Failure("missing_file", f"{posixpath.basename(file)} is {kind}, not a regular file")
        size = info["size"] or 0
        if size > limit:
            raise Failure("too_big", f"{size} bytes, the limit is {limit} (fetch.max_bytes)")
        # Files of the system have size 0, others grow, and some stores do not know sizes. (On stores, a range
        # of an empty object is an error.)
        is_bounded = protocol_of(self.root) == "file" or info["size"] is None
        data = bytes(fs.cat_file(file, start=0, end=limit + 1) if is_bounded else fs.cat_file(file))
        if len(data) > limit:
            raise Failure("too_big", f"more than {limit} bytes (fetch.max_bytes)")
        return data

    def _translate_error(self, error: Exception, path: str) -> Exception | None:
        """A `Failure` of the row, a `StoreError` for its whole shard, or None for an unexpected error."""
        if is_refusal(error):
            return StoreError(f"{self.root.rstrip('/')}/{path}: cannot read it ({describe_error(error)})")
        # On a disk, permissions concern a single file; a store may answer 403 for a moment without a reason.
        is_forbidden = isinstance(error, PermissionError) and protocol_of(self.root) == "file"
        if is_forbidden or isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
            text = getattr(error, "strerror", None)
            return Failure("missing_file", f"{path}: {text or type(error).__name__}")
        # A busy store, a connection that closed within the body, a failing disk.
        if isinstance(error, (OSError, aiohttp.ClientError)) or is_botocore_error(error):
            return Failure("connect", f"{path}: {describe_error(error)}")
        return None


def _raise_if_refused(fs: Any, file: str) -> None:
    """Send a GET after a HEAD was refused without a reason: only a response to GET has one.

    Raises:
        Exception: the store refuses every such request, for example because the credentials have expired.
    """
    try:
        fs.cat_file(file, start=0, end=1)
    except Exception as error:
        # AccessDenied is also the response for a missing file in a bucket that may not be listed.
        if is_refusal(error) and code_of(error) != DENIED:
            raise


async def run_in_thread(threads: Executor, function: Callable[..., T], *args: Any) -> T:
    """Run a blocking function in one of `threads`."""
    return await asyncio.get_running_loop().run_in_executor(threads, function, *args)
