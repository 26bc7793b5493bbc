"""A local folder over HTTP, so that the real fetch stage can run without a network."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

LOOPBACK = "127.0.0.1"
START_SECONDS = 30
"""Limit for the start and for the end of the server."""


@contextmanager
def serve_folder(folder: str | os.PathLike[str], host: str = LOOPBACK) -> Iterator[str]:
    """Serve the files in `folder` from a background thread while the context lasts.

    Links that lead out of the folder are not followed, and folders are not listed.

    Args:
        host: address of this machine to listen on; only who reaches it can read the files.

    Yields:
        The base url, "http://HOST:PORT/", on a free port.

    Raises:
        ValueError: there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"cannot serve {root}: no such folder")
    app = web.Application()
    app.router.add_static("/", root, show_index=False, follow_symlinks=False)
    with serve_app(app, host) as address:
        yield address


@contextmanager
def serve_app(app: web.Application, host: str = LOOPBACK) -> Iterator[str]:
    """Serve an application from a background thread while the context lasts; yields its base url."""
    server = _Server(app, host)
    thread = threading.Thread(target=server.run, name="serve-folder", daemon=True)
    thread.start()
    try:
        yield server.wait_for_address()
    finally:
        server.stop()
        thread.join(START_SECONDS)


class _Server:
    """The event loop of the serving thread; `wait_for_address` and `stop` are called by other threads."""

    def __init__(self, app: web.Application, host: str) -> None:
        self._app, self._host = app, host
        self._ready = threading.Event()
        self._address: str | None = None
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None

    def run(self) -> None:
        """Serve until `stop`; an error is raised by `wait_for_address`."""
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    def wait_for_address(self) -> str:
        self._ready.wait(START_SECONDS)
        if self._address is None:
            raise RuntimeError("the local HTTP server did not start") from self._error
        return self._address

    def stop(self) -> None:
        if self._loop is not None and self._stopped is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        # A short timeout: a handler that never answers must not delay the shutdown.
        runner = web.AppRunner(self._app, handle_signals=False, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, 0).start()
            host = f"[{self._host}]" if ":" in self._host else self._host
            self._address = f"http://{host}:{runner.addresses[0][1]}/"
            self._ready.set()
            await self._stopped.wait()
        finally:
            await runner.cleanup()
