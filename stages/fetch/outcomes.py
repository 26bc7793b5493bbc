"""What fetching adds to a row: where its image is, and the columns that hold the result."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.urls.blocklist import BlockList
from capfilt.stages.fetch.urls.parse import MAX_URL_CHARS, parse_http_url, strip_invisible
from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from capfilt.stages.rows import ROW_SCHEMA, with_column
from capfilt.stages.status import PENDING, SUCCESS, Failure, quote

Row = dict[str, Any]

OUTCOME_COLUMNS = (
    "status", "error_message", "width", "height", "original_width", "original_height", "sha256", "phash",
    "image",
)  # fmt: skip
"""Columns that the fetch stage sets."""
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


def pending_rows(batch: pa.Table) -> tuple[list[int], list[Row]]:
    """Indices of the pending rows of a batch, and the columns of these rows that fetching needs."""
    indices = [i for i, status in enumerate(batch["status"].to_pylist()) if status == PENDING]
    needed = batch.select([c for c in ("url", "error_message", "image") if c in batch.column_names])
    return indices, needed.take(pa.array(indices, pa.int64())).to_pylist()


def fill_columns(batch: pa.Table, indices: Sequence[int], outcomes: Sequence[Row]) -> pa.Table:
    """`batch` with `OUTCOME_COLUMNS` of the rows at `indices` set to their outcomes."""
    for name in OUTCOME_COLUMNS:
        values = batch[name].to_pylist() if name in batch.column_names else [None] * batch.num_rows
        for i, outcome in zip(indices, outcomes, strict=True):
            values[i] = outcome.get(name)
        batch = with_column(batch, name, values, ROW_SCHEMA.field(name).type)
    return batch


def locate_image(url: str | None, config: FetchConfig) -> tuple[str, bool]:
    """Find out where the image of a row is.

    Returns:
        (absolute web address, True) or (path below `image_root`, False).

    Raises:
        Failure: bad_url.
    """
    url = strip_invisible(url or "")
    if not url:
        raise Failure("bad_url", "the row has no url")
    if len(url) > MAX_URL_CHARS:
        raise Failure(
            "bad_url", f"the url has {len(url)} characters, the limit is {MAX_URL_CHARS}: {quote(url)}"
        )
    if any(ord(c) < 32 or ord(c) == 127 for c in url):
        raise Failure("bad_url", f"control characters in {quote(url)}")
    if _SCHEME.match(url):  # Downloader rejects every scheme but http and https
        return url, True
    if config.base_url is not None:
        return str(parse_http_url(url, config.base_url.rstrip("/") + "/")), True
    if config.image_root is None:
        raise Failure("bad_url", f"relative url {quote(url)}: set base_url or image_root")
    path = posixpath.normpath(url)
    if path.startswith(("/", "../")) or path in (".", ".."):
        raise Failure("bad_url", f"path {quote(url)} is outside the image folder")
    return path, False


def decode_outcome(data: bytes, config: DecodeConfig, blocked: BlockList) -> Row:
    """Decode downloaded bytes into `OUTCOME_COLUMNS`; invalid bytes become a failure status."""
    digest = hashlib.sha256(data).hexdigest()
    if digest in blocked.hashes:
        return {"status": "blocked", "error_message": "the sha256 is on the block list", "sha256": digest}
    try:
        stored = decode_and_resize(data, config)
    except Failure as failure:
        return {"status": failure.status, "error_message": failure.message, "sha256": digest}
    return {"status": SUCCESS, "sha256": digest, **vars(stored)}
