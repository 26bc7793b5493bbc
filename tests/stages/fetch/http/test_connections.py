"""Responses that browsers accept although they are not valid HTTP, byte by byte and at once."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from capfilt.stages.fetch.http.connections import MAX_HEAD_BYTES, MAX_HEADER_BYTES
from capfilt.stages.fetch.stage import Fetch
from tests.stages.fetch.hostile_server import JPEG, HostileServer, fetch_config, fetch_one, make_batch

pytestmark = pytest.mark.usefixtures("loopback_only")

N = len(JPEG)
LENGTH = b"Content-Length: %d" % N


def raw(
    *headers: bytes, first: bytes = b"HTTP/1.1 200 OK", body: bytes = JPEG, newline: bytes = b"\r\n"
) -> bytes:
    return newline.join([first, *headers, b"", b""]) + body


CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (N, JPEG)

RESPONSES = {
    "long header": (raw(LENGTH, b"X: " + b"a" * (MAX_HEADER_BYTES - 3)), "success"),
    "too long header": (raw(LENGTH, b"X: " + b"a" * MAX_HEADER_BYTES), "http_invalid"),
    "too many header bytes": (
        raw(*[b"X: " + b"a" * 9000] * (MAX_HEAD_BYTES // 9000 + 1), LENGTH),
        "http_invalid",
    ),
    "100 headers": (raw(*[b"X-%d: v" % n for n in range(100)], LENGTH), "success"),
    "no colon": (raw(b"Broken", LENGTH), "success"),
    "no colon, continued": (raw(b"Broken", b" on", LENGTH), "success"),
    "name with a space": (raw(b"My Name: x", LENGTH), "success"),
    "no name": (raw(b": x", LENGTH), "success"),
    "space before the colon": (raw(b"Content-Length : %d" % N), "success"),
    "continued header": (raw(b"X: one", b"\ttwo", LENGTH), "success"),
    "equal lengths": (raw(LENGTH, LENGTH), "success"),
    "equal lengths in one header": (raw(b"Content-Length: %d, %d" % (N, N)), "success"),
    "different lengths": (raw(LENGTH, b"Content-Length: %d" % (N + 1)), "http_invalid"),
    "length is no number": (raw(b"Content-Length: many"), "http_invalid"),
    "negative length": (raw(b"Content-Length: -1"), "http_invalid"),
    "body longer than announced": (raw(LENGTH, body=JPEG + b"behind"), "success"),
    "body much shorter than announced": (raw(LENGTH, body=JPEG[:-9]), "connect"),
    "length and chunks": (
        raw(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=CHUNKS),
        "success",
    ),
    "different lengths and chunks": (
        raw(
            LENGTH,
            b"Content-Length: 5",
            b"Transfer-Encoding: chunked",
            body=CHUNKS,
        ),
        "success",
    ),
    "line feeds only": (raw(LENGTH, newline=b"\n"), "success"),
    "early hints": (raw(b"Link: <x>", first=b"HTTP/1.1 103 Early Hints", body=b"") + raw(LENGTH), "success"),
    "two interim responses": (raw(first=b"HTTP/1.1 100 C", body=b"") * 2 + raw(LENGTH), "success"),
    "no reason": (raw(LENGTH, first=b"HTTP/1.1 200"), "success"),
    "no headers": (raw(), "success"),
    "204 with a body": (raw(LENGTH, first=b"HTTP/1.1 204 No Content"), "empty_body"),
    "another protocol": (b"SSH-2.0-OpenSSH\r\n\r\n", "http_invalid"),
    "incomplete head": (b"HTTP/1.1 200 OK\r\nX: y\r\n", "connect"),
}


class Raw(HostileServer):
    """Sends /<number> at once and /slow/<number> in small pieces."""

    def respond(self, path: str, count: int, host: str) -> bytes | AsyncIterator[bytes]:
        if path == "/robots.txt":
            return b"HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n"
        body = list(RESPONSES.values())[int(path.rpartition("/")[2])][0]
        return slowly(body) if path.startswith("/slow/") else body


async def slowly(data: bytes) -> AsyncIterator[bytes]:
    step = max(1, len(data) // 300)
    for start in range(0, len(data), step):
        yield data[start : start + step]
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("prefix", ["/", "/slow/"])
def test_responses(name: str, prefix: str) -> None:
    with Raw() as server:
        row = fetch_one(server.url(f"{prefix}{list(RESPONSES).index(name)}"), deadline_s=10, retries=0)
        assert row["status"] == RESPONSES[name][1], row["error_message"]


class KeptOpen(HostileServer):
    """Answers every request on the same connection, each with bytes behind the announced body."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests["connections"] += 1
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                path = request.split()[1].decode()
                self.requests[path] += 1
                extra = raw(b"Content-Length: 1", body=b"x") if path.startswith("/extra") else b""
                writer.write(raw(LENGTH) + extra)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def test_bytes_behind_a_response_are_not_the_next_response() -> None:
    with KeptOpen() as server:
        stage = Fetch(fetch_config(deadline_s=10, per_host=1, robots=False))
        urls = [server.url(f"/extra/{n}") for n in range(4)]
        assert set(stage(make_batch(*urls))["status"].to_pylist()) == {"success"}
        assert server.requests["connections"] == 4
        urls = [server.url(f"/plain/{n}") for n in range(4)]
        assert set(stage(make_batch(*urls))["status"].to_pylist()) == {"success"}
        assert server.requests["connections"] == 5
