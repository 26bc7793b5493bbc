"""Filesystems by address: what fsspec is told beyond the user's options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import fsspec

ATTEMPTS = 8
"""Of every S3 request that meets 500, 502, 503, 504, SlowDown, a timeout or a broken connection; the waits in between
are random up to 1, 2, 4, 8, 16, 20, 20 s. On top, s3fs itself starts over 4 times after SlowDown, a broken connection
or a body that ends early."""


def open_filesystem(url: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """(fsspec filesystem, path in it) of an address, with patience for a store that is busy and no cached listings.

    Raises:
        ValueError, ImportError: no filesystem for this address.
    """
    return fsspec.core.url_to_fs(url, **filesystem_options(url, options))  # type: ignore[no-any-return]


def filesystem_options(url: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The user's options and beneath them ours."""
    given = dict(options or {})
    protocol = protocol_of(url)
    if protocol in ("file", "memory"):
        return given
    # A cached listing hides what other processes have written since: shards would count as missing.
    given.setdefault("use_listings_cache", False)
    if protocol == "s3":
        config = dict(given.get("config_kwargs") or {})
        config.setdefault("retries", _retries())
        given["config_kwargs"] = config
    return given


def protocol_of(url: str) -> str:
    """ "s3" for s3://bucket/run, "file" for a path."""
    protocol = url.partition("://")[0] if "://" in url else "file"
    return {"s3a": "s3", "local": "file"}.get(protocol, protocol)


def _retries() -> dict[str, Any]:
    """botocore's retry settings, except what the environment says (a client's own settings would go before it)."""
    ours: dict[str, Any] = {}
    if "AWS_RETRY_MODE" not in os.environ:
        ours["mode"] = "standard"
    if "AWS_MAX_ATTEMPTS" not in os.environ:
        ours["total_max_attempts"] = ATTEMPTS
    return ours
