"""One HTTP response: its status, its redirect target, and its body up to a byte limit."""

from __future__ import annotations

import email.utils
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from capfilt.stages.fetch.http.codings import OVERHEAD_BYTES, Decoding
from capfilt.stages.fetch.urls.parse import parse_location
from capfilt.stages.status import Failure, Unreachable, classify_http_code, quote

REDIRECT_CODES = (301, 302, 303, 307, 308)


@asynccontextmanager
async def translate_errors(url: URL) -> AsyncIterator[None]:
    """Raise exceptions of aiohttp and the system as `Failure`s; unexpected ones pass through."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise Unreachable("timeout", f"{url.host}: connection timed out") from error
    except aiohttp.ClientSSLError as error:
        raise Failure("tls", f"{url.host}: {error}") from error
    except aiohttp.InvalidURL as error:
        raise Failure("bad_url", f"malformed url {url}: {error}") from error
    except aiohttp.ClientResponseError as error:
        raise Failure("http_invalid", f"{url.host}: {error}") from error
    except aiohttp.ClientConnectorError as error:
        raise Unreachable("connect", f"{url.host}: {error}") from error
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:  # closed without a response
        raise Unreachable("connect", f"{url.host}: {str(error) or type(error).__name__}") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
        raise Failure("connect", f"{url.host}: {str(error) or type(error).__name__}") from error


def resolve_redirect(response: aiohttp.ClientResponse) -> URL | None:
    """Return the target of a redirect, None for a success (2xx).

    Raises:
        Failure: redirect (no target, or not an http(s) url), or the status of an error response, with its
            Retry-After.
    """
    code = response.status
    if 200 <= code < 300:
        return None
    if not 300 <= code < 400:
        message = f"{response.url.host}: HTTP {code}"
        raise Failure(classify_http_code(code), message, retry_after=_parse_retry_after(response))
    location = response.headers.get("Location")
    if code not in REDIRECT_CODES or not location:
        raise Failure("redirect", f"{response.url.host}: HTTP {code} without a redirect target")
    try:
        return parse_location(location, response.url)
    except Failure as error:
        raise Failure("redirect", f"redirect to {quote(location)}, not an http(s) url") from error


async def read_body(
    response: aiohttp.ClientResponse,
    limit: int,
    *,
    truncate: bool,
    reserve: Callable[[int], Awaitable[None]],
) -> bytes:
    """Read the body, decompressed if it is compressed.

    Args:
        limit: bytes.
        truncate: cut a longer body at the limit; otherwise it is a failure.
        reserve: awaited with the size of each piece before the piece is kept.

    Raises:
        Failure: too_big (before or after decompression), empty_body, or http_invalid for a compressed body
            that is truncated, or not encoded as its header says.
    """
    if (response.content_length or 0) > limit and not truncate:
        raise Failure("too_big", f"Content-Length is {response.content_length}, the limit is {limit} bytes")
    decoding = Decoding(response.headers.getall("Content-Encoding", []), limit)
    pieces: list[bytes] = []
    received = size = 0
    async for chunk in response.content.iter_any():
        received += len(chunk)
        for piece in decoding.decode(chunk):
            await reserve(len(piece))
            pieces.append(piece)
            size += len(piece)
            if size > limit:  # a decompression bomb is not inflated any further
                break
        if size > limit or received > limit + OVERHEAD_BYTES:
            if truncate:
                return b"".join(pieces)[:limit]
            raise Failure("too_big", f"the body exceeds the limit of {limit} bytes")
        if decoding.is_finished:  # what follows the compressed stream is not read
            break
    if not size:
        raise Failure("empty_body", f"{response.url.host}: HTTP {response.status} without a body")
    if not decoding.is_complete:
        raise Failure("http_invalid", f"{response.url.host}: the compressed body is truncated")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _parse_retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as a date (RFC 9110, 10.2.3); None if neither."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
