"""A loopback server with the behaviors that occur on the web, and helpers that run the fetch stage."""

import asyncio
import gzip
import io
import socket
import ssl
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pyarrow as pa
from PIL import Image

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.rows import ROW_SCHEMA, row_key, table_of
from capfilt.stages.status import STATUSES
from tests.stages.images import handmade

ADDRESSES = {
    "good.test": ["127.0.0.1"],  # allowed by allow_private, like an intranet host
    "printer.test": ["192.168.1.7"],
    "localhost": ["127.0.0.1"],
    "mixed.test": ["93.184.215.14", "10.0.0.1"],
}
"""Addresses of host names; no other name resolves."""


COLORS = [(220, 30, 40), (30, 160, 60), (40, 60, 200), (255, 255, 255)]


def make_image(format_: str = "JPEG", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, (200, 40, 60)).save(sink, format_, **options)
    return sink.getvalue()


JPEG = make_image()
FRAMES = [Image.new("RGB", (64, 48), color) for color in ((200, 40, 60), (0, 0, 0))]
INK = [(*(255 - v for v in color), 0) for color in COLORS]
HUGE_HEADER = handmade.chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
PNG_BOMB = b"\x89PNG\r\n\x1a\n" + HUGE_HEADER + handmade.chunk(b"IDAT", b"")


def http_response(
    body: bytes = b"", status: str = "200 OK", length: int | None = None, **headers: str
) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        "Connection: close",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def tagged_response(tags: str) -> bytes:
    """A response with one X-Robots-Tag header per line of `tags`, and a truncated body."""
    lines = "".join(f"x-robots-TAG: {tag}\r\n" for tag in tags.split("\n"))
    return f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 90000\r\n\r\n".encode() + JPEG


class HostileServer:
    """A server whose responses are raw bytes, or generators of bytes. Counts its requests."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.requests: Counter[str] = Counter()
        """Requests by path."""
        self.hosts: dict[str, list[tuple[float, str]]] = defaultdict(list)
        """(time, path) of the requests to each host, in order."""
        self.headers: dict[str, str] = {}
        """Headers of the last request."""
        self.concurrent: Counter[str] = Counter()
        self.max_concurrent: Counter[str] = Counter()
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "HostileServer":
        started = threading.Event()

        async def start() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]
            started.set()

        self._thread.start()
        asyncio.run_coroutine_threadsafe(start(), self.loop)
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        async def stop() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def paths(self, host: str) -> list[str]:
        """Paths requested from a host, in order."""
        return [path for _, path in self.hosts[host]]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(1)
            if not first.isalpha():  # a TLS handshake
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            request = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            path = request.split()[1]
            self.requests[path] += 1
            fields = (line.partition(": ") for line in request.split("\r\n")[1:])
            self.headers = {name.lower(): value for name, _, value in fields}
            await self._respond(path, self.headers["host"].partition(":")[0], writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client closed the connection, or the test is over
        finally:
            writer.close()

    async def _respond(self, path: str, host: str, writer: asyncio.StreamWriter) -> None:
        self.hosts[host].append((time.monotonic(), path))
        response = self.respond(path, self.requests[path], host)
        async for part in response if not isinstance(response, bytes) else _once(response):
            writer.write(part)
            await writer.drain()
        if path == "/reset":  # RST instead of FIN
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()

    async def delayed_image(self, host: str, seconds: float = 0.15) -> AsyncIterator[bytes]:
        """An image after a delay; counts the concurrent requests to a host."""
        self.concurrent[host] += 1
        self.max_concurrent[host] = max(self.max_concurrent[host], self.concurrent[host])
        await asyncio.sleep(seconds)
        self.concurrent[host] -= 1
        yield http_response(JPEG)

    def respond(self, path: str, count: int, host: str) -> bytes | AsyncIterator[bytes]:
        """The response to the `count`-th request for `path`; tests override it."""
        flaky = {
            "/429": ("429 Too Many", "0"),
            "/500": ("500 Error", "0"),
            "/retry-after": ("429 Too Many", "1"),
        }
        if path in flaky and count == 1:
            status, seconds = flaky[path]
            return http_response(status=status, Retry_After=seconds)
        if path.startswith("/status/"):
            return http_response(status=f"{path[8:11]} Status", Retry_After="3600")
        if path.startswith("/loop"):
            return http_response(status="302 Found", Location="/loop2" if path == "/loop1" else "/loop1")
        if path.startswith("/chain/"):
            left = int(path[7:])
            if left == 0:
                return http_response(JPEG)
            return http_response(status="301 Moved", Location=f"{left - 1}")
        if path.startswith("/delayed/"):
            return self.delayed_image(host)
        if path.startswith("/to/"):
            return http_response(status="302 Found", Location=bytes.fromhex(path[4:]).decode())
        if path.startswith("/tag/"):
            return tagged_response(bytes.fromhex(path[5:]).decode())
        if path in STREAMS:
            return STREAMS[path]()
        return RESPONSES.get(path, http_response(JPEG))


RESPONSES: dict[str, bytes] = {
    "/robots.txt": http_response(b"User-agent: *\nDisallow: /private/\nUser-agent: otherbot\nDisallow: /\n"),
    "/html": http_response(b"<!DOCTYPE html><h1>Not here</h1>", Content_Type="image/jpeg"),
    "/svg": http_response(b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='48'/>"),
    "/empty": http_response(b""),
    "/cut.jpg": http_response(make_image(size=(300, 200))[:900]),
    "/cut.png": http_response(make_image("PNG", size=(300, 200))[:200]),
    "/short": http_response(JPEG[:200], length=len(JPEG)),
    "/png-bomb": http_response(PNG_BOMB),
    "/gzip": http_response(gzip.compress(JPEG), Content_Encoding="gzip"),
    "/gzip-bomb": http_response(gzip.compress(bytes(30_000_000)), Content_Encoding="gzip"),
    "/gzip-broken": http_response(b"\x1f\x8b no", Content_Encoding="gzip"),
    "/gzip-cut": http_response(gzip.compress(JPEG)[:-30], Content_Encoding="gzip"),
    "/announced": http_response(b"", length=10**10),
    "/headers": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "/not-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "/nowhere": http_response(status="302 Found"),
    "/304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "/small": http_response(make_image(size=(15, 99))),
    "/banner": http_response(make_image(size=(330, 16))),
    "/cmyk": http_response(handmade.jpeg(INK)),
    "/16-bit": http_response(handmade.png([tuple(257 * v for v in c) for c in COLORS], depth=16)),
    "/alpha": http_response(handmade.png([(*c, 128) for c in COLORS], color_type=6)),
    "/gif": http_response(handmade.gif([[0, 1, 2, 3], [3, 3, 3, 3]], [*COLORS, *[(0, 0, 0)] * 4])),
    "/webp": http_response(make_image("WEBP", save_all=True, append_images=FRAMES)),
    "/avif": http_response(make_image("AVIF")),
    "/closed": b"",
    "/reset": http_response(JPEG[:200], length=len(JPEG)),
}
RESPONSES |= {
    f"/exif/{n}": http_response(handmade.jpeg(COLORS, width=64, height=48, head=handmade.exif(n, ">")))
    for n in range(1, 9)
}


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def late_header() -> AsyncIterator[bytes]:
    await asyncio.sleep(30)
    yield http_response(JPEG)


async def trickle() -> AsyncIterator[bytes]:
    yield http_response(b"", length=len(JPEG))
    for byte in JPEG:
        yield bytes([byte])
        await asyncio.sleep(0.1)


async def endless() -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"10000\r\n" + bytes(0x10000) + b"\r\n"


STREAMS: dict[str, Callable[[], AsyncIterator[bytes]]] = {
    "/late-header": late_header,
    "/trickle": trickle,
    "/endless": endless,
}


def fetch_config(**changes: Any) -> FetchConfig:
    """Short deadlines, small limits, no rate limit; `changes` override."""
    settings: dict[str, Any] = {
        "deadline_s": 1.5,
        "connect_timeout_s": 1.0,
        "max_bytes": 1_000_000,
        "backoff_s": 0.02,
        "allow_private": ("127.0.0.1", "good.test"),
        "per_host_per_second": None,
        "image": DecodeConfig(min_side=16),
    }
    return FetchConfig(**(settings | changes))


def make_batch(*urls: str | None, **columns: Any) -> pa.Table:
    """A batch of pending rows with these urls."""
    rows = [
        {
            "key": row_key(0, i),
            "source": "s",
            "shard": 0,
            "url": url,
            "status": "pending",
            "caption": f"text {i}",
            **columns,
        }
        for i, url in enumerate(urls)
    ]
    return table_of(rows, ROW_SCHEMA)


def fetch_one(url: str | None, **changes: Any) -> dict[str, Any]:
    (row,) = Fetch(fetch_config(**changes))(make_batch(url)).to_pylist()
    assert row["status"] in STATUSES
    assert (row["status"] == "success") == (row["image"] is not None) == (row["error_message"] is None)
    return row
