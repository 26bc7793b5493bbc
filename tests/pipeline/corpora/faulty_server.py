"""A folder over HTTP whose every url shows one fault."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from capfilt.pipeline.corpora.serve import serve_app


@contextmanager
def serve_with_fault(folder: Path, fault: str) -> Iterator[str]:
    """Serve the files in `folder` with one fault; yields the base url.

    Args:
        folder: what is served.
        fault: "404"; "429" or "503", each only in the first answer of a url; "hang": no answer; "reset": the
            connection is aborted; "html": a web page instead of the file.
    """
    requested: set[str] = set()

    @web.middleware
    async def inject(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_first = request.path not in requested
        requested.add(request.path)
        if fault == "404":
            raise web.HTTPNotFound
        if fault in ("429", "503") and is_first:
            return web.Response(status=int(fault), headers={"Retry-After": "0"})
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "reset" and request.transport is not None:
            request.transport.abort()
        if fault == "html":
            return web.Response(text="<!DOCTYPE html><title>moved</title>", content_type="text/html")
        return await handler(request)

    app = web.Application(middlewares=[inject])
    app.router.add_static("/", folder)
    with serve_app(app) as address:
        yield address
