"""Rows → the same rows with image bytes or a status. The web, a folder of images, or bytes that came with a tar.

Nothing that a url, a server or a file does ends in an exception here: every pending row leaves with a status of the
closed list in `stages.status`, and rows that have one already pass untouched. What is no row's doing does: an image
folder whose store is away, and a machine without memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import posixpath
import re
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urljoin

import cv2
import pyarrow as pa
from annotated_types import Ge, Le

from capfilt.stages.fetch.http.blocklist import BlockList
from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.fetch.http.downloader import Downloader
from capfilt.stages.fetch.http.loop import Web
from capfilt.stages.fetch.image_folder import ImageFolder, in_thread
from capfilt.stages.images.decode import DecodeConfig, decode_picture
from capfilt.stages.rows import ROW_SCHEMA, with_column
from capfilt.stages.status import INTERNAL, PENDING, SUCCESS, Failure, one_line
from capfilt.stages.storage.store import StoreError

URL_LIMIT = 8_000  # characters; servers take no more, and texts that strayed into the url column are longer
FILLED = (
    "status", "error_message", "width", "height", "original_width", "original_height", "sha256", "phash", "image",
)  # fmt: skip
"""Columns this stage fills."""
IMG2DATASET_DOES = (
    "backend", "base_url", "image", "optout", "concurrency", "connect_timeout_s", "retries", "allow_private",
    "robots", "per_host_per_second",
)  # fmt: skip
"""Settings that backend img2dataset follows, or that are checked apart."""

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FetchConfig(DownloadConfig):
    """Where images come from, how the web is asked, which pictures are taken and how they are stored."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    backend: Literal["capfilt", "img2dataset"] = "capfilt"
    """Who asks for urls and scales pictures. `img2dataset`: its downloader and resizer, for those who want exactly
    its pictures. It follows a name or a redirect into private address space (the guard sees only what stands in the
    url), knows no robots.txt, deadline or byte cap, and turns no photograph upright; see docs/fetching.md. It needs
    `robots: false` and `per_host_per_second: null`, so that nobody believes otherwise. Files and pictures that come
    with tars are read by capfilt in any case."""
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

        if self.backend == "img2dataset":
            self._check_img2dataset()

    def _check_img2dataset(self) -> None:
        """Nothing is set that img2dataset would not do.

        Raises:
            ValueError: the first such setting.
        """
        for name in ("robots", "per_host_per_second"):
            if getattr(self, name):
                off = "false" if name == "robots" else "null"
                raise ValueError(
                    f"backend img2dataset knows no {name}: set {name}: {off} to say so, or use capfilt"
                )
        given = [
            (item, getattr(self, item.name)) for item in fields(self) if item.name not in IMG2DATASET_DOES
        ]
        for item, value in given:
            usual = item.default_factory() if item.default_factory is not MISSING else item.default
            if value != usual:
                raise ValueError(
                    f"backend img2dataset has no {item.name}: leave {item.name} out, or use capfilt"
                )
        if self.image.resize == "original" or self.image.background.lower() != DecodeConfig.background:
            raise ValueError(
                "backend img2dataset stores every picture anew, on white: "
                "set image.resize to shorter or longer, leave image.background out, or use capfilt"
            )

    def manners(self) -> DownloadConfig:
        """How the web is asked, without what is done with the answers: sources that agree in it can share a `Web`."""
        return DownloadConfig(**{item.name: getattr(self, item.name) for item in fields(DownloadConfig)})


class Fetch:
    """Gets, checks and stores the image of every pending row of a batch.

    Args:
        config: see `FetchConfig`.
        web: the web as this worker sees it, if stages share it; by default this stage has its own.
    """

    def __init__(self, config: FetchConfig, web: Web | None = None) -> None:
        self.config = config
        self.web = web or Web(config.manners())
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
        return filled(batch, indices, outcomes)

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
        call = partial(stored, config=self.config.image, blocked=web.blocked)
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


def pending_rows(batch: pa.Table) -> tuple[list[int], list[Row]]:
    """Where the pending rows of a batch stand, and what fetching needs of them."""
    indices = [i for i, status in enumerate(batch["status"].to_pylist()) if status == PENDING]
    asked = batch.select([c for c in ("url", "error_message", "image") if c in batch.column_names])
    return indices, asked.take(pa.array(indices, pa.int64())).to_pylist()


def filled(batch: pa.Table, indices: Sequence[int], outcomes: Sequence[Row]) -> pa.Table:
    """`batch` with the columns `FILLED` of the rows at `indices` set to their outcomes."""
    for name in FILLED:
        known = batch[name].to_pylist() if name in batch.column_names else [None] * batch.num_rows
        for i, outcome in zip(indices, outcomes, strict=True):
            known[i] = outcome.get(name)
        batch = with_column(batch, name, known, ROW_SCHEMA.field(name).type)
    return batch


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


def stored(data: bytes, config: DecodeConfig, blocked: BlockList) -> Row:
    """The columns `FILLED` of a row whose bytes have come; never raises what the bytes are guilty of."""
    digest = hashlib.sha256(data).hexdigest()
    if digest in blocked.hashes:
        return {"status": "blocked", "error_message": "the sha256 is on the block list", "sha256": digest}
    try:
        picture = decode_picture(data, config)
    except Failure as failure:
        return {"status": failure.status, "error_message": failure.message, "sha256": digest}
    return {"status": SUCCESS, "sha256": digest, **vars(picture)}
