"""One HTTP answer: what it says, where it leads, and its body under a cap."""

from __future__ import annotations

import email.utils
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from capfilt.stages.status import Failure, Unreachable, http_status

REDIRECTS = (301, 302, 303, 307, 308)
INFLATE_STEP = 65536  # bytes of a compressed body that are unpacked at once


def web_url(url: str) -> URL:
    """`url` parsed, for http and https only.

    Raises:
        Failure: bad_url.
    """
    try:
        parsed = URL(url)
        usable = parsed.scheme in ("http", "https") and bool(parsed.host) and parsed.port != 0
    except ValueError as error:
        raise Failure("bad_url", f"{url[:80]!r} is malformed: {error}") from error
    if not usable:
        raise Failure("bad_url", f"{url[:80]!r} is not an http(s) url with a host")
    return parsed.with_fragment(None)


@asynccontextmanager
async def failures_of(url: URL) -> AsyncIterator[None]:
    """Turns what aiohttp and the system raise into statuses; what is not foreseen passes through."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise Unreachable("timeout", f"{url.host} does not accept connections") from error
    except aiohttp.ClientSSLError as error:
        raise Failure("tls", f"{url.host}: {error}") from error
    except aiohttp.InvalidURL as error:
        raise Failure("bad_url", f"{url}: {error}") from error
    except (aiohttp.ClientResponseError, zlib.error) as error:
        raise Failure("http_invalid", f"{url.host}: {error}") from error
    except aiohttp.ClientConnectorError as error:
        raise Unreachable("connect", f"{url.host}: {error}") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
        raise Failure("connect", f"{url.host}: {error or type(error).__name__}") from error


def redirect_of(response: aiohttp.ClientResponse) -> URL | None:
    """Where a 3xx answer leads, None for any other.

    Raises:
        Failure: redirect (nowhere, or out of http(s)), or the status of a refusal; with its Retry-After.
    """
    code = response.status
    if 200 <= code < 300:
        return None
    if not 300 <= code < 400:
        message = f"{response.url.host} answered {code}"
        raise Failure(http_status(code), message, retry_after=_retry_after(response))
    location = response.headers.get("Location")
    if code not in REDIRECTS or not location:
        raise Failure("redirect", f"{response.url.host} answered {code} without saying where to")
    try:
        return web_url(str(response.url.join(URL(location))))
    except (ValueError, Failure) as error:
        raise Failure("redirect", f"to {location[:80]!r}, no http(s) url") from error


async def read_body(
    response: aiohttp.ClientResponse, limit: int, *, cut: bool, lend: Callable[[int], Awaitable[None]]
) -> bytes:
    """The body, unpacked if it is compressed.

    Args:
        limit: bytes.
        cut: a longer body ends at the limit; else it is a failure.
        lend: awaited with the size of each piece before it is kept.

    Raises:
        Failure: too_big, empty_body, or http_invalid for a compressed body that ends early.
        zlib.error: it is not compressed as it says.
    """
    if (response.content_length or 0) > limit and not cut:
        raise Failure("too_big", f"{response.content_length} bytes announced, at most {limit} are taken")
    compressed = response.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip", "deflate")
    inflate = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS) if compressed else None
    pieces: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        for piece in _inflated(inflate, chunk) if inflate else (chunk,):
            await lend(len(piece))
            pieces.append(piece)
            size += len(piece)
            if size > limit:  # a bomb is never unpacked further
                if cut:
                    return b"".join(pieces)[:limit]
                raise Failure("too_big", f"more than {limit} bytes")
    if not size:
        raise Failure("empty_body", f"{response.url.host} answered {response.status} without a body")
    if inflate is not None and not inflate.eof:
        raise Failure("http_invalid", f"{response.url.host}: the compressed body ends early")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _inflated(inflate: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    while True:
        piece = inflate.decompress(chunk, INFLATE_STEP)
        if piece:
            yield piece
        if len(piece) < INFLATE_STEP:
            return
        chunk = inflate.unconsumed_tail


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date (RFC 9110, 10.2.3); None if neither."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
