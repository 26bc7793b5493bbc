"""NEW FILE."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urljoin

import pyarrow as pa

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.http.blocklist import BlockList
from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from capfilt.stages.rows import ROW_SCHEMA, with_column
from capfilt.stages.status import PENDING, SUCCESS, Failure

URL_LIMIT = 8_000  # characters; servers take no more, and texts that strayed into the url column are longer


FILLED = (
    "status", "error_message", "width", "height", "original_width", "original_height", "sha256", "phash", "image",
)  # fmt: skip
"""Columns this stage fills."""


_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


Row = dict[str, Any]


def pending_rows(batch: pa.Table) -> tuple[list[int], list[Row]]:
    """Where the pending rows of a batch stand, and what fetching needs of them."""
    indices = [i for i, status in enumerate(batch["status"].to_pylist()) if status == PENDING]
    asked = batch.select([c for c in ("url", "error_message", "image") if c in batch.column_names])
    return indices, asked.take(pa.array(indices, pa.int64())).to_pylist()


def fill_columns(batch: pa.Table, indices: Sequence[int], outcomes: Sequence[Row]) -> pa.Table:
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


def decode_outcome(data: bytes, config: DecodeConfig, blocked: BlockList) -> Row:
    """The columns `FILLED` of a row whose bytes have come; never raises what the bytes are guilty of."""
    digest = hashlib.sha256(data).hexdigest()
    if digest in blocked.hashes:
        return {"status": "blocked", "error_message": "the sha256 is on the block list", "sha256": digest}
    try:
        picture = decode_and_resize(data, config)
    except Failure as failure:
        return {"status": failure.status, "error_message": failure.message, "sha256": digest}
    return {"status": SUCCESS, "sha256": digest, **vars(picture)}
