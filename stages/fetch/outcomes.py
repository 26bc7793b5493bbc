"""What fetching adds to a row: where its image is, and the columns that hold the result."""

from __future__ import annotations

import hashlib
import os.path
import posixpath
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from capfilt.stages.fetch.config import FetchConfig, is_web_folder
from capfilt.stages.fetch.urls.blocklist import BlockList
from capfilt.stages.fetch.urls.parse import MAX_URL_CHARS, parse_http_url, strip_invisible
from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from capfilt.stages.rows import RECEIVED, ROW_SCHEMA, with_column
from capfilt.stages.status import HASH_MISMATCH, PENDING, SUCCESS, Failure, quote

Row = dict[str, Any]

OUTCOME_COLUMNS = (
    "status", "error_message", "width", "height", "original_width", "original_height", "sha256", "phash",
    "optout_signal", "image",
)  # fmt: skip
"""Columns that the fetch stage sets."""
MD5_DIGITS = 32
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_WEB = re.compile(r"https?:[/\\]", re.IGNORECASE)
# A name such as "a:b.jpg" has no "://": in a folder it is a file.
_OTHER_STORE = re.compile(r"(?!file:///)[a-zA-Z][a-zA-Z0-9+.-]*://", re.IGNORECASE)


def pending_rows(batch: pa.Table) -> tuple[list[int], list[Row]]:
    """Indices of the pending rows of a batch, and the columns of these rows that fetching needs."""
    indices = [i for i, status in enumerate(batch["status"].to_pylist()) if status == PENDING]
    needed = batch.select(
        [c for c in ("url", "error_message", "image", "expected_hash") if c in batch.column_names]
    )
    return indices, needed.take(pa.array(indices, pa.int64())).to_pylist()


def fill_columns(batch: pa.Table, indices: Sequence[int], outcomes: Sequence[Row]) -> pa.Table:
    """`batch` with `OUTCOME_COLUMNS` of the rows at `indices` set to their outcomes, and the column
    `received`."""
    for name in OUTCOME_COLUMNS:
        values = batch[name].to_pylist() if name in batch.column_names else [None] * batch.num_rows
        for i, outcome in zip(indices, outcomes, strict=True):
            values[i] = outcome.get(name)
        batch = with_column(batch, name, values, ROW_SCHEMA.field(name).type)
    received: list[int | None] = [None] * batch.num_rows
    for i, outcome in zip(indices, outcomes, strict=True):
        received[i] = outcome.get(RECEIVED)
    return with_column(batch, RECEIVED, received, pa.int64())


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
    if config.image_root is not None and not _WEB.match(url):
        if is_web_folder(config.image_root):
            return _join_below(config.image_root, url), True
        if not _OTHER_STORE.match(url) or _is_below(url, config.image_root):
            return _path_below(config.image_root, url), False
    if _SCHEME.match(url):  # Downloader rejects every scheme but http and https
        return url, True
    if config.base_url is None:
        raise Failure("bad_url", f"relative url {quote(url)}: set base_url or image_root")
    return str(parse_http_url(url, config.base_url.rstrip("/") + "/")), True


def _join_below(root: str, url: str) -> str:
    """A relative url joined to an image folder on the web, whose path it must not leave."""
    folder = parse_http_url(root.rstrip("/") + "/")
    joined = parse_http_url(url, str(folder))
    if joined.origin() != folder.origin() or not joined.raw_path.startswith(folder.raw_path):
        raise Failure("bad_url", f"path {quote(url)} is outside the image folder")
    return str(joined)


def _path_below(root: str, url: str) -> str:
    """The path, relative to the image folder, of a relative or absolute path or file:// url."""
    path = unquote(url[len("file://") :]) if url.lower().startswith("file:///") else url
    if path.startswith("/") or _is_below(path, root):
        path = posixpath.relpath(posixpath.normpath(path), posixpath.normpath(_absolute(root, path)))
    path = posixpath.normpath(path)
    if path.startswith(("/", "../")) or path in (".", ".."):
        raise Failure("bad_url", f"path {quote(url)} is outside the image folder")
    return path


def _absolute(root: str, path: str) -> str:
    """The image folder in the form in which `path` is written: an address, or an absolute local path."""
    if _OTHER_STORE.match(path):
        return root
    return os.path.abspath(unquote(root[len("file://") :]) if root.startswith("file://") else root)


def _is_below(url: str, root: str) -> bool:
    """Whether an address with a scheme (s3://bucket/images/a.jpg) starts with the address of the folder."""
    return bool(_OTHER_STORE.match(url)) and url.startswith(root.rstrip("/") + "/")


def decode_outcome(
    data: bytes, expected_hash: str | None = None, *, config: DecodeConfig, blocked: BlockList
) -> Row:
    """Decode downloaded bytes into `OUTCOME_COLUMNS` and `received`; invalid bytes become a failure status.

    Args:
        expected_hash: the promised sha256 or md5 of the bytes in hex, None without a promise.
    """
    digest = hashlib.sha256(data).hexdigest()
    came = {"sha256": digest, RECEIVED: len(data)}
    if digest in blocked.hashes:
        return {"status": "blocked", "error_message": "the sha256 is on the block list", **came}
    if expected_hash and (problem := _describe_mismatch(data, digest, expected_hash)) is not None:
        return {"status": HASH_MISMATCH, "error_message": problem, **came}
    try:
        stored = decode_and_resize(data, config)
    except Failure as failure:
        return {"status": failure.status, "error_message": failure.message, **came}
    return {"status": SUCCESS, **came, **vars(stored)}


def _describe_mismatch(data: bytes, sha256: str, expected: str) -> str | None:
    """Why bytes are not those that were promised; None if they are."""
    if len(expected) == MD5_DIGITS:
        kind, found = "md5", hashlib.md5(data, usedforsecurity=False).hexdigest()
    elif len(expected) == len(sha256):
        kind, found = "sha256", sha256
    else:
        return f"the promised hash {quote(expected)} is neither a sha256 (64 hex digits) nor an md5 (32)"
    return None if found == expected else f"the {kind} is {found}, promised was {quote(expected)}"
