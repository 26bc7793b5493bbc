"""Pictures over HTTP from a process of its own, fast enough to be nobody's bottleneck.

Pictures are noise whose strength falls with frequency as a photograph's does, so that decoding one costs what a
photograph costs; they are encoded before the clock runs and sent from memory. The server listens on all of
127.0.0.0/8, so that a list can have as many hosts as it likes.
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


def make_pictures(count: int, sides: tuple[int, int], seed: int = 0) -> list[bytes]:
    """JPEGs whose longer side is spread over `sides` (pixels), in the common aspects, of quality 75 to 92."""
    draw = np.random.default_rng(seed)
    pictures = []
    for i, longer in enumerate(np.linspace(*sides, count).astype(int)):
        across, down = ASPECTS[i % len(ASPECTS)]
        scale = longer / max(across, down)
        picture = _noise(draw, round(across * scale), round(down * scale))
        sink = io.BytesIO()
        picture.save(sink, "JPEG", quality=int(draw.integers(75, 93)))
        pictures.append(sink.getvalue())
    return pictures


def _noise(draw: np.random.Generator, width: int, height: int) -> Image.Image:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1

    def field() -> np.ndarray:
        waves = draw.standard_normal((2, *frequency.shape))
        plane = np.fft.irfft2((waves[0] + 1j * waves[1]) / frequency**1.4, (height, width))
        return (plane - plane.mean()) / plane.std()

    light = field()  # shared by the channels: a photograph is mostly light and little colour
    pixels = np.stack([120 + 45 * (0.9 * light + 0.3 * field()) for _ in range(3)], axis=-1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int

    def urls(self, count: int, hosts: int) -> list[str]:
        """`count` urls, in turn on `hosts` addresses of 127.0.0.0/8."""
        return [
            f"http://{address}:{self.port}/{i}.jpg"
            for i, address in zip(range(count), _cycle(hosts), strict=False)
        ]

    def used(self) -> dict[str, float]:
        """What the server has done so far: {"requests", "bytes", "cpu_seconds"}."""
        with socket.create_connection(("127.0.0.1", self.port)) as line:
            line.sendall(b"GET /stats HTTP/1.1\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: line.recv(65536), b""))
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    def ceiling(self, seconds: float, clients: int = 2) -> float:
        """Pictures per second that clients which throw the bytes away get; they share the machine's cores."""
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(clients) as pool:
            return sum(pool.map(lambda _: _drain(self.port, until), range(clients))) / seconds


def addresses(hosts: int) -> list[str]:
    """The first addresses of 127.0.0.0/8, 127.0.0.1 first."""
    return [f"127.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(1, hosts + 1)]


def _cycle(hosts: int) -> Iterator[str]:
    names = addresses(hosts)
    while True:
        yield from names


def _drain(port: int, until: float) -> int:
    done = 0
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as line:
        while time.monotonic() < until:
            line.sendall(b"GET /%d.jpg HTTP/1.1\r\n\r\n" % done)
            got = line.recv(65536)
            head, _, body = got.partition(b"\r\n\r\n")
            left = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]) - len(body)
            while left > 0:
                left -= line.recv_into(buffer, min(left, len(buffer)))
            done += 1
    return done


@contextmanager
def serve_pictures(pictures: list[bytes]) -> Iterator[Server]:
    """The server, until the body ends; `/<n>.jpg` is picture n, counted round."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(pictures, theirs), daemon=True)
    process.start()
    try:
        yield Server(ours.recv())
    finally:
        process.terminate()
        process.join()


def _run(pictures: list[bytes], parent: Connection) -> None:
    async def main() -> None:
        answers = [_answer(picture, "image/jpeg") for picture in pictures]
        done = {"requests": 0, "bytes": 0}
        server = await asyncio.get_running_loop().create_server(
            lambda: _Line(answers, done), "0.0.0.0", 0, backlog=4096
        )
        parent.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def _answer(body: bytes, kind: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class _Line(asyncio.Protocol):
    """One connection. Requests have no body and come whole, as clients of a loopback do."""

    def __init__(self, answers: list[bytes], done: dict[str, int]) -> None:
        self.answers, self.done, self.rest = answers, done, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        if not transport.get_extra_info("peername")[0].startswith("127."):  # it listens on all addresses
            transport.close()

    def data_received(self, data: bytes) -> None:
        self.rest += data
        while b"\r\n\r\n" in self.rest:
            head, _, self.rest = self.rest.partition(b"\r\n\r\n")
            self.transport.write(self.answer(head.split(b" ", 2)[1]))
            if b"connection: close" in head.lower():
                self.transport.close()

    def answer(self, path: bytes) -> bytes:
        name = path[1:].removesuffix(b".jpg")
        if name.isdigit():
            found = self.answers[int(name) % len(self.answers)]
            self.done["requests"] += 1
            self.done["bytes"] += len(found)
            return found
        if path == b"/stats":
            return _answer(json.dumps(self.done | {"cpu_seconds": time.process_time()}).encode(), "text/json")
        return _answer(b"", "text/plain", "404 Not Found")  # robots.txt among others


def shuffled(urls: list[str], seed: int) -> list[str]:
    """The same urls in another order, so that a shard mixes sizes and hosts."""
    return random.Random(seed).sample(urls, len(urls))
