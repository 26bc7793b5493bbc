"""A server on loopback that does what servers do, and what a test of the fetch stage needs to ask it."""

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

NAMES = {
    "good.test": ["127.0.0.1"],  # opened by allow_private, as an intranet host would be
    "printer.test": ["192.168.1.7"],
    "mixed.test": ["93.184.215.14", "10.0.0.1"],
}
"""What names resolve to; no other name does."""


COLOURS = [(220, 30, 40), (30, 160, 60), (40, 60, 200), (255, 255, 255)]


def picture(form: str = "JPEG", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, (200, 40, 60)).save(sink, form, **options)
    return sink.getvalue()


JPEG = picture()
FRAMES = [Image.new("RGB", (64, 48), colour) for colour in ((200, 40, 60), (0, 0, 0))]
INK = [(*(255 - v for v in colour), 0) for colour in COLOURS]
HUGE = handmade.chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
PNG_BOMB = b"\x89PNG\r\n\x1a\n" + HUGE + handmade.chunk(b"IDAT", b"")


def answer(body: bytes = b"", status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        "Connection: close",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def tagged(tags: str) -> bytes:
    """An answer with one X-Robots-Tag header for each line of `tags`, whose body breaks off at once."""
    lines = "".join(f"x-robots-TAG: {tag}\r\n" for tag in tags.split("\n"))
    return f"HTTP/1.1 200 OK\r\n{lines}Content-Length: 90000\r\n\r\n".encode() + JPEG


class Hostile:
    """A server whose answers are bytes, or coroutines that write what they like; counts what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.asked: Counter[str] = Counter()
        self.hosts: dict[str, list[tuple[float, str]]] = defaultdict(list)
        """When each host was asked for what, in order."""
        self.headers: dict[str, str] = {}
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Hostile":
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
        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(1)
            if not first.isalpha():  # a TLS greeting
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            request = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            path = request.split()[1]
            self.asked[path] += 1
            fields = (line.partition(": ") for line in request.split("\r\n")[1:])
            self.headers = {name.lower(): value for name, _, value in fields}
            await self._answer(path, self.headers["host"].partition(":")[0], writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()

    async def _answer(self, path: str, host: str, writer: asyncio.StreamWriter) -> None:
        self.hosts[host].append((time.monotonic(), path))
        reply = self.reply(path, self.asked[path], host)
        async for part in reply if not isinstance(reply, bytes) else _once(reply):
            writer.write(part)
            await writer.drain()
        if path == "/reset":  # RST instead of FIN
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()

    async def leisurely(self, host: str, seconds: float = 0.15) -> AsyncIterator[bytes]:
        """A picture after a while; counts how many of a host are waited for at once."""
        self.at_once[host] += 1
        self.most_at_once[host] = max(self.most_at_once[host], self.at_once[host])
        await asyncio.sleep(seconds)
        self.at_once[host] -= 1
        yield answer(JPEG)

    def reply(self, path: str, times: int, host: str) -> bytes | AsyncIterator[bytes]:
        """What is answered to the `times`-th request for `path`; tests override it."""
        flaky = {"/429": ("429 Too Many", "0"), "/500": ("500 Oh", "0"), "/patience": ("429 Too Many", "1")}
        if path in flaky and times == 1:
            status, wait = flaky[path]
            return answer(status=status, Retry_After=wait)
        if path.startswith("/status/"):
            return answer(status=f"{path[8:11]} So", Retry_After="3600")
        if path.startswith("/loop"):
            return answer(status="302 Found", Location="/loop2" if path == "/loop1" else "/loop1")
        if path.startswith("/chain/"):
            step = int(path[7:])
            return answer(JPEG) if step == 0 else answer(status="301 Moved", Location=f"{step - 1}")
        if path.startswith("/leisurely/"):
            return self.leisurely(host)
        if path.startswith("/to/"):
            return answer(status="302 Found", Location=bytes.fromhex(path[4:]).decode())
        if path.startswith("/tag/"):
            tags = bytes.fromhex(path[5:]).decode()
            return tagged(tags)
        return FIXED[path] if path in FIXED else LIVE[path]() if path in LIVE else answer(JPEG)


FIXED: dict[str, bytes] = {
    "/robots.txt": answer(b"User-agent: *\nDisallow: /private/\nUser-agent: otherbot\nDisallow: /\n"),
    "/html": answer(b"<!DOCTYPE html><h1>Not here</h1>", Content_Type="image/jpeg"),
    "/svg": answer(b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='48'/>"),
    "/empty": answer(b""),
    "/cut.jpg": answer(picture(size=(300, 200))[:900]),
    "/cut.png": answer(picture("PNG", size=(300, 200))[:200]),
    "/short": answer(JPEG[:200], length=len(JPEG)),
    "/png-bomb": answer(PNG_BOMB),
    "/gzip": answer(gzip.compress(JPEG), Content_Encoding="gzip"),
    "/gzip-bomb": answer(gzip.compress(bytes(30_000_000)), Content_Encoding="gzip"),
    "/gzip-broken": answer(b"\x1f\x8b no", Content_Encoding="gzip"),
    "/gzip-cut": answer(gzip.compress(JPEG)[:-30], Content_Encoding="gzip"),
    "/announced": answer(b"", length=10**10),
    "/headers": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "/not-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "/nowhere": answer(status="302 Found"),
    "/304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "/small": answer(picture(size=(15, 99))),
    "/banner": answer(picture(size=(330, 16))),
    "/cmyk": answer(handmade.jpeg(INK)),
    "/16-bit": answer(handmade.png([tuple(257 * v for v in c) for c in COLOURS], depth=16)),
    "/alpha": answer(handmade.png([(*c, 128) for c in COLOURS], kind=6)),
    "/gif": answer(handmade.gif([[0, 1, 2, 3], [3, 3, 3, 3]], [*COLOURS, *[(0, 0, 0)] * 4])),
    "/webp": answer(picture("WEBP", save_all=True, append_images=FRAMES)),
    "/avif": answer(picture("AVIF")),
    "/closed": b"",
    "/reset": answer(JPEG[:200], length=len(JPEG)),
}
FIXED |= {
    f"/exif/{turn}": answer(handmade.jpeg(COLOURS, width=64, height=48, head=handmade.exif(turn, ">")))
    for turn in range(1, 9)
}


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def slow_header() -> AsyncIterator[bytes]:
    await asyncio.sleep(30)
    yield answer(JPEG)


async def trickle() -> AsyncIterator[bytes]:
    yield answer(b"", length=len(JPEG))
    for byte in JPEG:
        yield bytes([byte])
        await asyncio.sleep(0.1)


async def endless() -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"10000\r\n" + bytes(0x10000) + b"\r\n"


LIVE: dict[str, Callable[[], AsyncIterator[bytes]]] = {
    "/slow-header": slow_header,
    "/trickle": trickle,
    "/endless": endless,
}


def config(**changes: Any) -> FetchConfig:
    usual: dict[str, Any] = {
        "deadline_s": 1.5,
        "connect_timeout_s": 1.0,
        "max_bytes": 1_000_000,
        "backoff_s": 0.02,
        "allow_private": ("127.0.0.1", "good.test"),
        "per_host_per_second": None,
        "image": DecodeConfig(min_side=16),
    }
    return FetchConfig(**(usual | changes))


def rows(*urls: str | None, **more: Any) -> pa.Table:
    made = [
        {
            "key": row_key(0, i),
            "source": "s",
            "shard": 0,
            "url": url,
            "status": "pending",
            "caption": f"text {i}",
            **more,
        }
        for i, url in enumerate(urls)
    ]
    return table_of(made, ROW_SCHEMA)


def fetch_one(url: str | None, **changes: Any) -> dict[str, Any]:
    (row,) = Fetch(config(**changes))(rows(url)).to_pylist()
    assert row["status"] in STATUSES
    assert (row["status"] == "success") == (row["image"] is not None) == (row["error_message"] is None)
    return row
