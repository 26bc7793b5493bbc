"""`fetch.backend: img2dataset`: downloads and resizes a shard with img2dataset's own code.

Rows, columns and statuses are those of the other backend, so later stages see no difference. docs/fetching.md
lists what differs, above all: **the target of a url is not checked**. Private addresses in the url itself are
rejected here, but not those behind a name or a redirect. img2dataset imports torch, wandb and OpenCV; the
first shard of a worker imports it, and nothing else does.
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
from capfilt.stages.fetch.http.optout import X_ROBOTS_TAG
from capfilt.stages.fetch.http.robots import PRODUCT_TOKEN
from capfilt.stages.fetch.outcomes import Row, decode_outcome, fill_columns, locate_image, pending_rows
from capfilt.stages.fetch.urls.addresses import check_host
from capfilt.stages.fetch.urls.blocklist import BlockList
from capfilt.stages.fetch.urls.exceptions import parse_exceptions
from capfilt.stages.fetch.urls.parse import parse_http_url
from capfilt.stages.images.phash import perceptual_hash
from capfilt.stages.status import INTERNAL, SUCCESS, Failure, classify_http_code, one_line
from capfilt.stages.storage.errors import explain_disk_errors

SHARD_ROWS_LIMIT = 100_000
"""Rows per shard that img2dataset's keys have digits for; capfilt's own keys are kept."""
DOWNLOAD_ERRORS = (  # pattern in the message of urllib, status; the first match counts
    (r"HTTP Error 3", "redirect"),
    (r"disallowed by X-Robots-Tag", "optout"),
    (r"timed out", "timeout"),
    (r"\[SSL|certificate|_ssl\.c", "tls"),
    (r"Errno -\d|Name or service|getaddrinfo|nodename", "dns"),
    (r"unknown url type|no host given|nonnumeric port|control characters|label (empty|too long)", "bad_url"),
    (r"header line|headers|^HTTP/|BadStatusLine|^[A-Z]+-\d", "http_invalid"),
    (r"Errno \d+|IncompleteRead|Remote end closed|Connection|reset", "connect"),
)
RESIZE_ERRORS = (  # pattern in the message of img2dataset's resizer or OpenCV, status
    (r"image too small", "too_small"),
    (r"image area too large", "too_many_pixels"),
    (r"aspect ratio too large", "aspect"),
    (r"!buf\.empty\(\)", "empty_body"),
    (r"", "decode"),  # a web page too: the resizer does not look at the header
)


class Img2datasetFetch:
    """Same contract as `stages.fetch.stage.Fetch`, with img2dataset's downloader and resizer.

    Args:
        config: see `FetchConfig`, which rejects settings that img2dataset does not support.
    """

    def __init__(self, config: FetchConfig) -> None:
        self.config = config
        self._allowed = parse_exceptions(config.allow_private)
        self._report_progress: Callable[[], None] = lambda: None

    def __reduce__(self) -> tuple[Any, ...]:
        return Img2datasetFetch, (self.config,)

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Call `callback` after every downloaded row."""
        self._report_progress = callback

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Fetch a batch: the same rows, with `OUTCOME_COLUMNS` set where the status was `pending`."""
        indices, rows = pending_rows(batch)
        outcomes: list[Row] = []
        urls: dict[int, str] = {}
        for number, row in enumerate(rows):
            local = self._url_or_outcome(row)
            if isinstance(local, str):
                urls[number] = local
                local = {"status": INTERNAL, "error_message": "img2dataset returned nothing for this row"}
            outcomes.append(local)
        for number, (image, meta) in (self._download(urls) if urls else {}).items():
            outcomes[number] = convert_outcome(image, meta)
        return fill_columns(batch, indices, outcomes)

    def _url_or_outcome(self, row: Row) -> str | Row:
        """The url to download, or the outcome of a row that needs no download."""
        try:
            if row.get("image") is not None:
                return decode_outcome(
                    row["image"], row.get("expected_hash"), config=self.config.image, blocked=BlockList()
                )
            if row.get("error_message"):
                raise Failure("missing_file", row["error_message"])
            url = parse_http_url(locate_image(row["url"], self.config)[0])
            check_host(url.raw_host or "", self._allowed, url.port)
            return str(url)
        except Failure as failure:
            return {"status": failure.status, "error_message": failure.message}

    def _download(self, urls: dict[int, str]) -> dict[int, tuple[bytes | None, dict[str, Any]]]:
        """Run img2dataset on `urls` ({row: url}).

        Returns:
            {row: (encoded image, img2dataset's metadata)}.
        """
        found: dict[int, tuple[bytes | None, dict[str, Any]]] = {}
        with tempfile.TemporaryDirectory(prefix="capfilt-img2dataset-") as folder:
            shard = Path(folder) / "shard.feather"
            table = pa.table({"row": pa.array(urls, pa.int64()), "url": pa.array(urls.values(), pa.string())})
            with (
                explain_disk_errors(shard),
                pa.OSFile(str(shard), "wb") as sink,
                pa.ipc.new_file(sink, table.schema) as writer,
            ):
                writer.write_table(table)
            downloader = self._downloader(partial(_Collector, found, self._report_progress), folder)
            # Not downloader(...): that would swallow exceptions.
            downloader.download_shard((0, str(shard)))
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
            number_sample_per_shard=SHARD_ROWS_LIMIT,
            oom_shard_count=5,
            compute_hash="sha256",
            verify_hash_type=None,
            encode_format="jpg" if config.image.format == "jpeg" else "webp",
            retries=config.retries,
            user_agent_token=PRODUCT_TOKEN,  # in a browser's User-Agent, and for X-Robots-Tag
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
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it looks for updates online
        from img2dataset import downloader, resizer

        # It redirects file descriptors 1 and 2 of the process for every image. With two threads, the
        # worker's log can be lost for good.
        resizer.SuppressStdoutStderr = nullcontext
        return downloader


class _Collector:
    """img2dataset's interface for a writer of samples; keeps the samples by row."""

    def __init__(
        self,
        found: dict[int, tuple[bytes | None, dict[str, Any]]],
        report_progress: Callable[[], None],
        *_: Any,
    ) -> None:
        self._found, self._report_progress = found, report_progress

    def write(self, image: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        self._found[meta["row"]] = (image, dict(meta))
        self._report_progress()

    def close(self) -> None:
        """Part of the interface; there is nothing to close."""


def convert_outcome(image: bytes | None, meta: dict[str, Any]) -> Row:
    """`OUTCOME_COLUMNS` from what img2dataset returns for a row."""
    if meta["status"] == SUCCESS and image is not None:
        copied = ("width", "height", "original_width", "original_height", "sha256")
        return {
            "status": SUCCESS,
            **{name: meta[name] for name in copied},
            "phash": perceptual_hash(np.asarray(decode_image(image))),
            "image": image,
        }
    message = str(meta["error_message"] or "")
    status = classify_message(message, is_downloaded=meta["status"] == "failed_to_resize")
    outcome = {
        "status": status,
        "error_message": one_line(f"img2dataset: {message}"),
        "sha256": meta["sha256"],
    }
    return outcome | ({"optout_signal": X_ROBOTS_TAG} if status == "optout" else {})


def classify_message(message: str, *, is_downloaded: bool) -> str:
    """Status for an error message of img2dataset, the text of any exception; `internal` for an unknown one.

    Args:
        message: the error message.
        is_downloaded: the error is of the resizer, not of the download.
    """
    if not is_downloaded:
        code = re.match(r"HTTP Error ([1245]\d\d)", message)
        if code:
            return classify_http_code(int(code[1]))
    table = RESIZE_ERRORS if is_downloaded else DOWNLOAD_ERRORS
    return next((status for pattern, status in table if re.search(pattern, message)), INTERNAL)
