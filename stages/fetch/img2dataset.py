"""`fetch.backend: img2dataset`: a shard's urls through img2dataset's own downloader and resizer.

The same rows come back with the same columns and statuses, so that whatever follows sees no difference. What differs is
told in docs/fetching.md; above all, **nobody checks where a url leads**: addresses in private space that stand in a
url are refused here, those behind names and redirects are asked. img2dataset brings torch, wandb and OpenCV; it is
imported by the first shard and by nothing else.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from capfilt.models.images.decode import decode_image
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.http.addresses import check_host, normal_host
from capfilt.stages.fetch.http.blocklist import BlockList
from capfilt.stages.fetch.http.response import web_url
from capfilt.stages.fetch.outcomes import Row, decode_outcome, fill_columns, locate, pending_rows
from capfilt.stages.images.phash import perceptual_hash
from capfilt.stages.status import INTERNAL, SUCCESS, Failure, http_status, one_line

TOKEN = "capfilt"
"""Stands in its User-Agent (which is a browser's otherwise), and opens X-Robots-Tag directives that are meant for us."""
OPEN_ENDED = 100_000  # rows of a shard that its keys have digits for; ours are kept

_OF_DOWNLOAD = (  # what urllib says, the first that fits
    (r"HTTP Error 3", "redirect"),
    (r"disallowed by X-Robots-Tag", "optout"),
    (r"timed out", "timeout"),
    (r"\[SSL|certificate|_ssl\.c", "tls"),
    (r"Errno -\d|Name or service|getaddrinfo|nodename", "dns"),
    (r"unknown url type|no host given|nonnumeric port|control characters|label (empty|too long)", "bad_url"),
    (r"header line|headers|^HTTP/|BadStatusLine|^[A-Z]+-\d", "http_invalid"),
    (r"Errno \d+|IncompleteRead|Remote end closed|Connection|reset", "connect"),
)
_OF_RESIZE = (
    (r"image too small", "too_small"),
    (r"image area too large", "too_many_pixels"),
    (r"aspect ratio too large", "aspect"),
    (r"!buf\.empty\(\)", "empty_body"),
    (r"", "decode"),  # a web page too: it looks at no header
)


class Img2datasetFetch:
    """As `stages.fetch.stage.Fetch`, through img2dataset.

    Args:
        config: see `FetchConfig`, whose checks have refused what img2dataset cannot do.
    """

    def __init__(self, config: FetchConfig) -> None:
        self.config = config
        self._allowed = frozenset(normal_host(host) for host in config.allow_private)
        self._told: Callable[[], None] = lambda: None

    def __reduce__(self) -> tuple[Any, ...]:
        return Img2datasetFetch, (self.config,)

    def on_progress(self, told: Callable[[], None]) -> None:
        """Have `told` called after every row."""
        self._told = told

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows; those that were `pending` have the columns `FILLED` set."""
        indices, rows = pending_rows(batch)
        outcomes: list[Row] = []
        urls: dict[int, str] = {}
        for number, row in enumerate(rows):
            settled = self._settled(row)
            if isinstance(settled, str):
                urls[number] = settled
                settled = {"status": INTERNAL, "error_message": "img2dataset returned nothing for the row"}
            outcomes.append(settled)
        for number, (image, meta) in (self._download(urls) if urls else {}).items():
            outcomes[number] = outcome_of(image, meta)
        return fill_columns(batch, indices, outcomes)

    def _settled(self, row: Row) -> Row | str:
        """What becomes of a row that needs no asking, or the url to ask for."""
        try:
            if row.get("image") is not None:
                return decode_outcome(row["image"], self.config.image, BlockList())
            if row.get("error_message"):
                raise Failure("missing_file", row["error_message"])
            url = web_url(locate(row["url"], self.config)[0])
            check_host(url.host or "", self._allowed)
            return str(url)
        except Failure as failure:
            return {"status": failure.status, "error_message": failure.message}

    def _download(self, urls: dict[int, str]) -> dict[int, tuple[bytes | None, dict[str, Any]]]:
        """{row: (stored picture, its metadata)}."""
        found: dict[int, tuple[bytes | None, dict[str, Any]]] = {}
        with tempfile.TemporaryDirectory(prefix="capfilt-img2dataset-") as folder:
            shard = Path(folder) / "shard.feather"
            table = pa.table({"row": pa.array(urls, pa.int64()), "url": pa.array(urls.values(), pa.string())})
            with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            # Not called as a whole: that would swallow the exception.
            self._downloader(partial(_Collector, found, self._told), folder).download_shard((0, str(shard)))
        return found

    def _downloader(self, writer: Any, folder: str) -> Any:
        config = self.config
        return self._library.Downloader(
            sample_writer_class=writer,
            resizer=self._resizer,
            thread_count=config.concurrency,
            save_caption=False,
            extract_exif=False,
            output_folder=folder,
            column_list=["row", "url"],
            timeout=config.connect_timeout_s,
            number_sample_per_shard=OPEN_ENDED,
            oom_shard_count=5,
            compute_hash="sha256",
            verify_hash_type=None,
            encode_format="jpg" if config.image.format == "jpeg" else "webp",
            retries=config.retries,
            user_agent_token=TOKEN,
            disallowed_header_directives=list(config.optout) or None,
        )

    @cached_property
    def _resizer(self) -> Any:
        from img2dataset.resizer import Resizer

        image = self.config.image
        return Resizer(
            image_size=image.size,
            resize_mode="keep_ratio" if image.resize == "shorter" else "keep_ratio_largest",
            resize_only_if_bigger=True,
            encode_quality=image.quality,
            encode_format="jpg" if image.format == "jpeg" else "webp",
            min_image_size=image.min_side,
            max_image_area=image.max_pixels,
            max_aspect_ratio=image.max_aspect,
        )

    @cached_property
    def _library(self) -> Any:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for its newest version
        from img2dataset import downloader, resizer

        # It points file descriptors 1 and 2 of the whole process elsewhere for every picture; with two threads the
        # worker's log is gone for good.
        resizer.SuppressStdoutStderr = nullcontext
        return downloader


class _Collector:
    """What img2dataset takes for a writer of samples: keeps them, by row."""

    def __init__(
        self, found: dict[int, tuple[bytes | None, dict[str, Any]]], told: Callable[[], None], *_: Any
    ) -> None:
        self.found, self._told = found, told

    def write(self, image: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        self.found[meta["row"]] = (image, dict(meta))
        self._told()

    def close(self) -> None:
        """Nothing is open."""


def outcome_of(image: bytes | None, meta: dict[str, Any]) -> Row:
    """The columns `FILLED` of a row that img2dataset is through with."""
    if meta["status"] == SUCCESS and image is not None:
        kept = ("width", "height", "original_width", "original_height", "sha256")
        return {
            "status": SUCCESS,
            **{name: meta[name] for name in kept},
            "phash": perceptual_hash(np.asarray(decode_image(image))),
            "image": image,
        }
    message = str(meta["error_message"] or "")
    status = status_of(message, downloaded=meta["status"] == "failed_to_resize")
    return {"status": status, "error_message": one_line(f"img2dataset: {message}"), "sha256": meta["sha256"]}


def status_of(message: str, *, downloaded: bool) -> str:
    """Our status for what img2dataset says: the text of whatever exception came; `internal` if it is none we know."""
    if not downloaded:
        code = re.match(r"HTTP Error ([1245]\d\d)", message)
        if code:
            return http_status(int(code[1]))
    table = _OF_RESIZE if downloaded else _OF_DOWNLOAD
    return next((status for pattern, status in table if re.search(pattern, message)), INTERNAL)
