"""Rows → the same rows with image bytes or a status. The web, a folder of images, or bytes that came with a tar.

Nothing that a url, a server or a file does ends in an exception here: every pending row leaves with a status of the
closed list in `stages.status`, and rows that have one already pass untouched.
"""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
import re
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import urljoin

import fsspec
import pyarrow as pa
from annotated_types import Ge, Le

from stages.decode import DecodeConfig, decode_picture
from stages.download import DownloadConfig, Downloader
from stages.rows import ROW_SCHEMA, with_column
from stages.status import INTERNAL, PENDING, SUCCESS, Failure, one_line

URL_LIMIT = 8_000  # characters; servers take no more, and texts that strayed into the url column are longer
FILLED = (
    "status", "error_message", "width", "height", "original_width", "original_height", "sha256", "phash", "image",
)  # fmt: skip
"""Columns this stage fills."""

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FetchConfig(DownloadConfig):
    """Where images come from, how the web is asked, which pictures are taken and how they are stored."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    base_url: str | None = None
    """Web address that relative urls are joined to."""
    image_root: str | None = None
    """Folder (local or any fsspec URL) that relative urls are paths in: images beside an annotation file. Symbolic
    links in it are followed; a path that leaves it is refused."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """fsspec options for `image_root` (endpoint, profile, anonymous access)."""
    decode_threads: Annotated[int, Ge(1), Le(256)] = 2
    """Pictures decoded at once in one worker; decoding releases Python's lock, so threads use cores."""
    image: DecodeConfig = field(default_factory=DecodeConfig)
    """Limits and stored size of pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_url is not None and self.image_root is not None:
            raise ValueError(
                "base_url and image_root are both given; a relative url can belong to one: remove one"
            )
        if self.base_url is not None and not self.base_url.lower().startswith(("http://", "https://")):
            raise ValueError(f"base_url {self.base_url!r}: an address that starts with http:// or https://")


class Fetch:
    """Gets, checks and stores the image of every pending row of a batch.

    Args:
        config: see `FetchConfig`.
    """

    def __init__(self, config: FetchConfig) -> None:
        self.config = config
        self._told: Callable[[], None] = lambda: None

    def on_progress(self, told: Callable[[], None]) -> None:
        """Have `told` called after every row."""
        self._told = told

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows; those that were `pending` have the columns `FILLED` set.

        A pending row that carries an image (it came with a tar) is not asked for again, only checked and stored.
        """
        statuses = batch["status"].to_pylist()
        pending = [i for i, status in enumerate(statuses) if status == PENDING]
        asked = batch.select([c for c in ("url", "error_message", "image") if c in batch.column_names])
        outcomes = _run(self._fetch(asked.take(pa.array(pending, pa.int64())).to_pylist()))
        for name in FILLED:
            known = batch[name].to_pylist() if name in batch.column_names else [None] * batch.num_rows
            for i, outcome in zip(pending, outcomes, strict=True):
                known[i] = outcome.get(name)
            batch = with_column(batch, name, known, ROW_SCHEMA.field(name).type)
        return batch

    async def _fetch(self, rows: list[Row]) -> list[Row]:
        config = self.config
        with _threads(config.concurrency) as waiting, _threads(config.decode_threads) as decoding:
            store = partial(_in_thread, decoding, partial(stored, config=config.image))
            async with Downloader(config, waiting) as web:
                files = ImageFolder(config, waiting)
                return await asyncio.gather(*(self._row(row, web, files, store) for row in rows))

    async def _row(
        self,
        row: Row,
        web: Downloader,
        files: ImageFolder,
        store: Callable[[bytes], Coroutine[Any, Any, Row]],
    ) -> Row:
        """What becomes of one row; never raises."""
        try:
            if row.get("image") is not None:
                return await store(row["image"])
            if row.get("error_message"):  # the reader found the sample without an image
                raise Failure("missing_file", row["error_message"])
            place, is_web = locate(row["url"], self.config)
            return await (web.download(place, store) if is_web else files.read(place, store))
        except Failure as failure:
            return {"status": failure.status, "error_message": failure.message}
        except Exception as error:  # whosever fault, the shard goes on and the text says what it was
            return {"status": INTERNAL, "error_message": one_line(f"{type(error).__name__}: {error}")}
        finally:
            self._told()


class ImageFolder:
    """Reads files of `image_root`, as many at once as the web would be asked for.

    Args:
        config: the root and the byte cap.
        threads: where reading blocks.
    """

    def __init__(self, config: FetchConfig, threads: Executor) -> None:
        self.config, self._threads = config, threads
        self._turns = asyncio.Semaphore(config.concurrency)

    async def read(self, path: str, finish: Callable[[bytes], Coroutine[Any, Any, T]]) -> T:
        """Bytes of `path` (below the root, see `locate`), passed through `finish`.

        Raises:
            Failure: missing_file, too_big or connect.
        """
        async with self._turns:
            return await finish(await _in_thread(self._threads, self._read, path))

    def _read(self, path: str) -> bytes:
        root = self.config.image_root
        fs, folder = fsspec.core.url_to_fs(root, **self.config.storage_options)
        place = f"{folder.rstrip('/')}/{path}"
        try:
            size = fs.info(place)["size"] or 0
            if size > self.config.max_bytes:
                raise Failure("too_big", f"{size} bytes, at most {self.config.max_bytes} are taken")
            return bytes(fs.cat_file(place))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise Failure("missing_file", f"{path}: {error.strerror or type(error).__name__}") from error
        except OSError as error:  # a store that is away for a moment, a disk that fails
            raise Failure("connect", f"{path}: {type(error).__name__}: {error}") from error


def locate(url: str | None, config: FetchConfig) -> tuple[str, bool]:
    """Where a row's image is.

    Returns:
        (absolute web address, True) or (path below `image_root`, False).

    Raises:
        Failure: bad_url.
    """
    url = (url or "").strip()
    if not url:
        raise Failure("bad_url", "the row has no url")
    if len(url) > URL_LIMIT:
        raise Failure("bad_url", f"{len(url)} characters, starting {url[:80]!r}")
    if any(ord(c) < 32 or ord(c) == 127 for c in url):
        raise Failure("bad_url", f"control characters in {url[:80]!r}")
    if _SCHEME.match(url):  # Downloader refuses every scheme but http and https
        return url, True
    if config.base_url is not None:
        return urljoin(config.base_url.rstrip("/") + "/", url), True
    if config.image_root is None:
        raise Failure("bad_url", f"{url[:80]!r} is relative; set base_url or image_root")
    path = posixpath.normpath(url)
    if path.startswith(("/", "../")) or path in (".", ".."):
        raise Failure("bad_url", f"{url[:80]!r} leads out of the image folder")
    return path, False


def stored(data: bytes, config: DecodeConfig) -> Row:
    """The columns `FILLED` of a row whose bytes have come; never raises what the bytes are guilty of."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        picture = decode_picture(data, config)
    except Failure as failure:
        return {"status": failure.status, "error_message": failure.message, "sha256": digest}
    return {"status": SUCCESS, "sha256": digest, **vars(picture)}


async def _in_thread(threads: Executor, call: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, call, *args)


@contextmanager
def _threads(count: int) -> Iterator[Executor]:
    """Threads that nobody waits for in the end: a name lookup can hang long after its url was given up."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="fetch")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Result of `work`, in an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # This thread runs a loop already (a notebook): it may not be entered twice.
    with ThreadPoolExecutor(1, thread_name_prefix="fetch-loop") as thread:
        return thread.submit(asyncio.run, work).result()
