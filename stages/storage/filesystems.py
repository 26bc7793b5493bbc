"""Opens fsspec filesystems, with default options for retries and listings beneath the user's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import fsspec

ATTEMPTS = 8
"""Attempts of an S3 request that fails with 500, 502, 503, 504, SlowDown, a timeout or a broken connection.
botocore waits between them for random times of at most 1, 2, 4, 8, 16, 20 and 20 s. In addition s3fs itself
retries 4 times after SlowDown, a broken connection or an incomplete body."""


def open_filesystem(url: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """(fsspec filesystem, path in it) of a path or URL, with the options of `filesystem_options`.

    Raises:
        ValueError, ImportError: there is no filesystem for this protocol.
    """
    return fsspec.core.url_to_fs(url, **filesystem_options(url, options))  # type: ignore[no-any-return]


def filesystem_options(url: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The user's fsspec options, completed with ours: retries of S3 requests, and no cached listings."""
    completed = dict(options or {})
    protocol = protocol_of(url)
    if protocol in ("file", "memory"):
        return completed
    # A cached listing hides files that other processes have written since, so shards would count as missing.
    completed.setdefault("use_listings_cache", False)
    if protocol == "s3":
        config = dict(completed.get("config_kwargs") or {})
        config.setdefault("retries", _default_retries())
        completed["config_kwargs"] = config
    return completed


def protocol_of(url: str) -> str:
    """The protocol of an address: "s3" for s3://bucket/run, "file" for a local path."""
    protocol = url.partition("://")[0] if "://" in url else "file"
    return {"s3a": "s3", "local": "file"}.get(protocol, protocol)


def _default_retries() -> dict[str, Any]:
    """botocore's retry settings, without those that the environment sets (which options would override)."""
    retries: dict[str, Any] = {}
    if "AWS_RETRY_MODE" not in os.environ:
        retries["mode"] = "standard"
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        retries["total_max_attempts"] = ATTEMPTS
    return retries
