"""One response: urls, redirects, Retry-After, and the limits of the body."""

import asyncio
import gzip
import time
import zlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict
from yarl import URL

from capfilt.stages.fetch.http.codings import OVERHEAD_BYTES
from capfilt.stages.fetch.http.response import read_body, resolve_redirect, translate_errors
from capfilt.stages.status import Failure, Unreachable

STEP = 65_536


def make_response(status: int = 200, chunks: tuple[bytes, ...] = (), **headers: str) -> Any:
    """What the functions under test use of an aiohttp response."""

    async def iter_any() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    length = named.get("Content-Length")
    return SimpleNamespace(
        status=status,
        url=URL("http://a.test/dir/x"),
        headers=named,
        content_length=None if length is None else int(length),
        content=SimpleNamespace(iter_any=iter_any),
    )


@pytest.mark.parametrize("status", [200, 204, 299])
def test_success(status: int) -> None:
    assert resolve_redirect(make_response(status)) is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(status: int) -> None:
    assert resolve_redirect(make_response(status, Location="y")) == URL("http://a.test/dir/y")


@pytest.mark.parametrize("status", [300, 304, 305, 306, 309, 399])
def test_codes_that_are_not_redirects(status: int) -> None:
    with pytest.raises(Failure, match=rf"a\.test: HTTP {status} without a redirect target") as caught:
        resolve_redirect(make_response(status, Location="y"))
    assert caught.value.status == "redirect"


@pytest.mark.parametrize(
    ("status", "expected"),
    [(101, "http_invalid"), (199, "http_invalid"), (400, "http_4xx"), (503, "http_5xx")],
)
def test_error_responses(status: int, expected: str) -> None:
    with pytest.raises(Failure, match=rf"^a\.test: HTTP {status}$") as caught:
        resolve_redirect(make_response(status, Location="y"))
    assert caught.value.status == expected and caught.value.retry_after is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("123456789", 123456789.0),
        ("9" * 5000, 999999999.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("1.5", None),
        ("-1", None),
        ("²", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(monkeypatch: pytest.MonkeyPatch, value: str, seconds: float | None) -> None:
    monkeypatch.setattr(time, "time", lambda: 1445412480.0)  # Wed, 21 Oct 2015 07:28:00 GMT
    with pytest.raises(Failure) as caught:
        resolve_redirect(make_response(503, Retry_After=value))
    assert caught.value.retry_after == seconds


KEY = ConnectionKey("a.test", 80, False, True, None, None, None)
REQUEST: Any = SimpleNamespace(real_url=URL("http://a.test/x"))


@pytest.mark.parametrize(
    ("error", "status", "unreachable"),
    [
        (aiohttp.ConnectionTimeoutError("slow"), "timeout", True),
        (aiohttp.ClientConnectorError(KEY, OSError(111, "refused")), "connect", True),
        (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "expired")), "tls", False),
        (aiohttp.ServerDisconnectedError("gone"), "connect", True),
        (aiohttp.ClientOSError(104, "reset"), "connect", True),
        (aiohttp.ClientPayloadError("short"), "connect", False),
        (ConnectionResetError("reset"), "connect", False),
        (aiohttp.ClientResponseError(REQUEST, (), message="bad"), "http_invalid", False),
        (aiohttp.InvalidURL("http://a b/"), "bad_url", False),
    ],
)
def test_exceptions_become_failures(error: Exception, status: str, unreachable: bool) -> None:
    async def fail(error: Exception) -> None:
        async with translate_errors(URL("http://a.test/x")):
            raise error

    with pytest.raises(Failure, match=r"a\.test: ." if status != "bad_url" else "malformed") as caught:
        asyncio.run(fail(error))
    assert caught.value.status == status and isinstance(caught.value, Unreachable) == unreachable
    with pytest.raises(Failure, match=r"^a\.test: ClientPayloadError$"):
        asyncio.run(fail(aiohttp.ClientPayloadError()))
    with pytest.raises(KeyError):
        asyncio.run(fail(KeyError()))


def read(response: Any, limit: int, *, truncate: bool = False) -> tuple[bytes, list[int]]:
    """(body, sizes that were reserved)."""
    reserved: list[int] = []

    async def reserve(size: int) -> None:
        reserved.append(size)

    return asyncio.run(read_body(response, limit, truncate=truncate, reserve=reserve)), reserved


def test_body_up_to_the_limit() -> None:
    assert read(make_response(chunks=(b"abc", b"de")), 5) == (b"abcde", [3, 2])
    with pytest.raises(Failure, match="the body exceeds the limit of 4 bytes") as caught:
        read(make_response(chunks=(b"abc", b"de")), 4)
    assert caught.value.status == "too_big"
    assert read(make_response(chunks=(b"abc", b"de")), 4, truncate=True)[0] == b"abcd"


def test_content_length_up_to_the_limit() -> None:
    assert read(make_response(chunks=(b"abc",), Content_Length="5"), 5)[0] == b"abc"
    with pytest.raises(Failure, match="Content-Length is 6, the limit is 5 bytes"):
        read(make_response(chunks=(b"abc",), Content_Length="6"), 5)
    assert read(make_response(chunks=(b"abc",), Content_Length="6"), 5, truncate=True)[0] == b"abc"


def test_empty_body() -> None:
    with pytest.raises(Failure, match=r"a\.test: HTTP 200 without a body") as caught:
        read(make_response(), 5)
    assert caught.value.status == "empty_body"


@pytest.mark.parametrize("encoding", ["gzip", "X-GZIP", "deflate"])
@pytest.mark.parametrize("size", [1, STEP - 1, STEP, STEP + 1, 3 * STEP])
def test_compressed_body(encoding: str, size: int) -> None:
    body = bytes(size)
    data = zlib.compress(body) if encoding == "deflate" else gzip.compress(body)
    chunks = (data[:5], data[5:])
    found, reserved = read(make_response(chunks=chunks, Content_Encoding=encoding), size)
    assert found == body and sum(reserved) == size and max(reserved) <= STEP
    with pytest.raises(Failure, match="truncated") as caught:
        read(make_response(chunks=(data[:-3],), Content_Encoding=encoding), size)
    assert caught.value.status == "http_invalid"


def test_decompression_stops_at_the_limit() -> None:
    data = gzip.compress(bytes(100 * STEP))
    reserved: list[int] = []

    async def reserve(size: int) -> None:
        reserved.append(size)

    response = make_response(chunks=(data,), Content_Encoding="gzip")
    with pytest.raises(Failure, match="exceeds the limit"):
        asyncio.run(read_body(response, 3 * STEP, truncate=False, reserve=reserve))
    assert reserved == [STEP] * 4


def test_corrupt_compressed_body() -> None:
    with pytest.raises(Failure, match=r"not encoded as Content-Encoding says \(gzip\)") as caught:
        read(make_response(chunks=(b"\x1f\x8b no",), Content_Encoding="gzip"), 100)
    assert caught.value.status == "http_invalid"


def test_received_bytes_are_limited_too() -> None:
    """Empty members of gzip are no part of the body; each has 20 bytes."""
    members = gzip.compress(b"abc") + gzip.compress(b"") * 56  # 23 + 20 x 56 bytes
    limit = len(members) - OVERHEAD_BYTES
    assert read(make_response(chunks=(members,), Content_Encoding="gzip"), limit)[0] == b"abc"
    with pytest.raises(Failure, match="exceeds the limit of 118 bytes"):
        read(make_response(chunks=(members,), Content_Encoding="gzip"), limit - 1)
    cut = read(make_response(chunks=(members,), Content_Encoding="gzip"), limit - 1, truncate=True)
    assert cut[0] == b"abc"


def test_bytes_behind_a_compressed_stream_are_not_read() -> None:
    chunks = [gzip.compress(b"abc"), bytes(20), *[bytes(STEP)] * 99]
    assert read(make_response(chunks=tuple(chunks), Content_Encoding="gzip"), 100)[0] == b"abc"
