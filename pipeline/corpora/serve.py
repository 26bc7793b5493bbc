"""A folder over HTTP on this machine, so that the real fetch stage can run where there is no network.

Failures can be injected: a share of the urls, always the same ones, answers as broken servers do.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from aiohttp import web
from aiohttp.typedefs import Handler

Fault = Literal["404", "429", "503", "hang", "reset", "html"]
FAULTS: tuple[Fault, ...] = ("404", "429", "503", "hang", "reset", "html")
"""404; 429 and 503 once, then the file; no answer at all; a connection cut off; a web page instead of an image."""

HOST = "127.0.0.1"
START_SECONDS = 30


@contextmanager
def serve_folder(
    folder: str | os.PathLike[str], *, faults: Mapping[Fault, float] | None = None, seed: int = 0
) -> Iterator[str]:
    """Serve the files below `folder` from a background thread while the context lasts.

    Args:
        folder: what is served; links out of it are not followed and folders are not listed.
        faults: share of all urls, 0 to 1, that shows each fault, e.g. {"404": 0.05, "hang": 0.01}.
        seed: another seed picks other urls.

    Yields:
        The base url, "http://127.0.0.1:PORT/", on a free port.

    Raises:
        ValueError: no such folder, an unknown fault, or shares that are no shares.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"cannot serve {root}: no such folder")
    shares = _checked(faults or {})
    server = _Server(root, shares, seed)
    thread = threading.Thread(target=server.run, name="serve-folder", daemon=True)
    thread.start()
    try:
        yield server.wait_for_address()
    finally:
        server.stop()
        thread.join(START_SECONDS)


def fault_of(path: str, faults: Mapping[Fault, float], seed: int = 0) -> Fault | None:
    """The fault that the url with this path shows, by a hash of the path: the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    for fault, share in faults.items():
        draw -= share
        if draw < 0:
            return fault
    return None


def _checked(faults: Mapping[Fault, float]) -> dict[Fault, float]:
    for fault, share in faults.items():
        if fault not in FAULTS:
            raise ValueError(f"unknown fault {fault!r}; allowed: {', '.join(FAULTS)}")
        if not 0 <= share <= 1:
            raise ValueError(f"fault {fault!r}: share {share} is not between 0 and 1")
    if sum(faults.values()) > 1 + 1e-9:
        raise ValueError(f"the faults' shares add up to {sum(faults.values()):g}; 1 at most")
    return dict(faults)


class _Server:
    """The event loop of the serving thread, and how to reach and end it from outside."""

    def __init__(self, root: Path, faults: Mapping[Fault, float], seed: int) -> None:
        self._root, self._faults, self._seed = root, faults, seed
        self._asked: set[str] = set()
        self._ready = threading.Event()
        self._address: str | None = None
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def run(self) -> None:
        """Serve until `stop`; what goes wrong is raised where the address is waited for."""
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    def wait_for_address(self) -> str:
        self._ready.wait(START_SECONDS)
        if self._address is None:
            raise RuntimeError(f"the server for {self._root} did not start") from self._error
        return self._address

    def stop(self) -> None:
        if self._loop is not None and self._ended is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended.set)

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(middlewares=[self._break])
        app.router.add_static("/", self._root, show_index=False, follow_symlinks=False)
        # A client that hangs on purpose must not hold up the end.
        runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, 0).start()
            self._address = f"http://{HOST}:{runner.addresses[0][1]}/"
            self._ready.set()
            await self._ended.wait()
        finally:
            await runner.cleanup()

    @web.middleware
    async def _break(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = fault_of(request.path, self._faults, self._seed)
        first = request.path not in self._asked
        self._asked.add(request.path)
        if fault == "404":
            raise web.HTTPNotFound
        if fault in ("429", "503") and first:
            return web.Response(status=int(fault), headers={"Retry-After": "0"})
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "reset" and request.transport is not None:
            request.transport.abort()
        if fault == "html":
            return web.Response(text="<!DOCTYPE html><title>moved</title>", content_type="text/html")
        return await handler(request)
