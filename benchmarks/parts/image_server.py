"""An HTTP server for images in a process of its own, fast enough not to be the bottleneck.

The images are noise whose spectrum falls with frequency like that of a photograph, so that decoding one costs
as much as decoding a photograph. They are encoded before the measurement and sent from memory. The server
listens on all of 127.0.0.0/8, so that a url list can have any number of hosts.
"""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from PIL import Image

ASPECTS = ((4, 3), (3, 4), (3, 2), (1, 1), (16, 9))


def make_images(count: int, sides: tuple[int, int], seed: int = 0) -> list[bytes]:
    """JPEGs of quality 75 to 92 in common aspect ratios, with the longer side evenly spread over `sides`
    (pixels)."""
    rng = np.random.default_rng(seed)
    images = []
    for i, longer in enumerate(np.linspace(*sides, count).astype(int)):
        across, down = ASPECTS[i % len(ASPECTS)]
        scale = longer / max(across, down)
        image = _noise_image(rng, round(across * scale), round(down * scale))
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=int(rng.integers(75, 93)))
        images.append(sink.getvalue())
    return images


def _noise_image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1

    def field() -> np.ndarray:
        waves = rng.standard_normal((2, *frequency.shape))
        plane = np.fft.irfft2((waves[0] + 1j * waves[1]) / frequency**1.4, (height, width))
        return (plane - plane.mean()) / plane.std()

    luminance = field()  # shared by the channels: a photograph varies more in luminance than in color
    pixels = np.stack([120 + 45 * (0.9 * luminance + 0.3 * field()) for _ in range(3)], axis=-1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int

    def urls(self, count: int, hosts: int) -> list[str]:
        """`count` urls, distributed in turn over `hosts` addresses of 127.0.0.0/8."""
        return [
            f"http://{address}:{self.port}/{i}.jpg"
            for i, address in zip(range(count), _cycle_addresses(hosts), strict=False)
        ]

    def read_stats(self) -> dict[str, float]:
        """Totals since the start: {"requests", "bytes", "cpu_seconds"}."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(b"GET /stats HTTP/1.1\r\nConnection: close\r\n\r\n")
            response = b"".join(iter(lambda: connection.recv(65536), b""))
        return json.loads(response.partition(b"\r\n\r\n")[2])

    def measure_ceiling(self, seconds: float, clients: int = 2) -> float:
        """Images per second sent to clients that discard the bytes; they share the machine's cores."""
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(clients) as pool:
            return sum(pool.map(lambda _: _download_until(self.port, until), range(clients))) / seconds


def addresses(hosts: int) -> list[str]:
    """The first `hosts` addresses of 127.0.0.0/8, 127.0.0.1 first."""
    return [f"127.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(1, hosts + 1)]


def _cycle_addresses(hosts: int) -> Iterator[str]:
    names = addresses(hosts)
    while True:
        yield from names


def _download_until(port: int, until: float) -> int:
    """Download and discard images until the time `until`; return their number."""
    count = 0
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while time.monotonic() < until:
            connection.sendall(b"GET /%d.jpg HTTP/1.1\r\n\r\n" % count)
            received = connection.recv(65536)
            head, _, body = received.partition(b"\r\n\r\n")
            left = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]) - len(body)
            while left > 0:
                left -= connection.recv_into(buffer, min(left, len(buffer)))
            count += 1
    return count


@contextmanager
def serve_images(images: list[bytes]) -> Iterator[Server]:
    """Run the server while the context is open; `/<n>.jpg` is image n modulo their number."""
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_run, args=(images, child_end), daemon=True)
    process.start()
    try:
        yield Server(parent_end.recv())
    finally:
        process.terminate()
        process.join()


def _run(images: list[bytes], parent: Connection) -> None:
    async def main() -> None:
        responses = [_make_response(image, "image/jpeg") for image in images]
        totals = {"requests": 0, "bytes": 0}
        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(responses, totals), "0.0.0.0", 0, backlog=4096
        )
        parent.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def _make_response(body: bytes, content_type: str, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One connection. Requests have no body."""

    def __init__(self, responses: list[bytes], totals: dict[str, int]) -> None:
        self.responses, self.totals, self.buffer = responses, totals, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        if not transport.get_extra_info("peername")[0].startswith("127."):  # it listens on all interfaces
            transport.close()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            self.transport.write(self.respond(head.split(b" ", 2)[1]))
            if b"connection: close" in head.lower():
                self.transport.close()

    def respond(self, path: bytes) -> bytes:
        name = path[1:].removesuffix(b".jpg")
        if name.isdigit():
            response = self.responses[int(name) % len(self.responses)]
            self.totals["requests"] += 1
            self.totals["bytes"] += len(response)
            return response
        if path == b"/stats":
            stats = self.totals | {"cpu_seconds": time.process_time()}
            return _make_response(json.dumps(stats).encode(), "text/json")
        return _make_response(b"", "text/plain", "404 Not Found")  # among others robots.txt


def shuffle(urls: list[str], seed: int) -> list[str]:
    """The same urls in another order, so that a shard mixes sizes and hosts."""
    return random.Random(seed).sample(urls, len(urls))
