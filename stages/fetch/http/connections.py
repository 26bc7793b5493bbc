"""Connections of the downloader: responses that browsers accept although they are not valid HTTP.

aiohttp's parser refuses them. `TolerantResponses` repairs the head of a response before the parser reads it;
bodies pass unchanged, up to their announced length.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.fetch.urls.addresses import GuardedResolver

MAX_HEADER_BYTES = 65_536
"""One header line, and the status line."""
MAX_HEAD_BYTES = 262_144
"""All headers together; the limit of Chrome."""

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/[0-9]\.[0-9] ([0-9]{3})")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class TolerantResponses(ResponseHandler):
    """Repairs heads as browsers read them.

    * lines that are no header (without a colon, or whose name is none) are dropped;
    * spaces between name and colon are dropped;
    * a Content-Length that is repeated with the same value counts once, with Transfer-Encoding not at all;
    * bytes behind the announced length are dropped, and the connection is closed after this response.
    """

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._head = bytearray()
        self._reads_head = False
        self._body_left: int | None = None

    def set_response_params(self, **options: Any) -> None:
        """Called by aiohttp before each request."""
        self._head.clear()
        self._reads_head, self._body_left = True, None
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        if not self._reads_head:
            super().data_received(self._cut(data))
            return
        self._head += data
        while end := _END_OF_HEAD.search(self._head):
            head, rest = bytes(self._head[: end.start()]), bytes(self._head[end.end() :])
            status = _STATUS_LINE.match(head)
            if status is None or len(head) > MAX_HEAD_BYTES:
                break
            repaired = self._repair(head)
            if status[1][:1] == b"1" and status[1] != b"101":  # the real response follows
                self._head = bytearray(rest)
                super().data_received(repaired)
                continue
            self._reads_head = False
            if status[1] in (b"204", b"304"):
                self._body_left = 0
            self._head.clear()
            super().data_received(repaired + self._cut(rest))
            return
        if end and end.start() <= MAX_HEAD_BYTES:
            self._pass_on()
        elif len(self._head) > MAX_HEAD_BYTES:
            self._head[:] = b"HTTP/1.1 200 OK\r\nmore than %d bytes of headers\r\n\r\n" % MAX_HEAD_BYTES
            self._pass_on()  # the parser names the invalid line

    def connection_lost(self, exc: BaseException | None) -> None:
        """The parser decides about an incomplete head."""
        self._pass_on()
        super().connection_lost(exc)

    def _pass_on(self) -> None:
        """Give the parser what has arrived as it is."""
        data, self._reads_head = bytes(self._head), False
        self._head.clear()
        if data:
            super().data_received(data)

    def _cut(self, data: bytes) -> bytes:
        """`data` up to the announced length of the body."""
        if self._body_left is None:
            return data
        if len(data) > self._body_left:
            self.force_close()
            data = data[: self._body_left]
        self._body_left -= len(data)
        return data

    def _repair(self, head: bytes) -> bytes:
        first, *lines = re.split(rb"\r?\n", head)
        kept: list[tuple[bytes, bytes]] = []
        keeps = False
        for line in lines:
            if line[:1] in (b" ", b"\t"):  # continues the line before
                if keeps:
                    kept[-1] = kept[-1][0], kept[-1][1] + b" " + line.strip()
                continue
            name, colon, value = line.partition(b":")
            keeps = bool(colon and _NAME.fullmatch(name.rstrip()))
            if keeps:
                kept.append((name.rstrip(), value.strip(b" \t")))
        return b"\r\n".join([first, *(name + b": " + value for name, value in self._frame(kept)), b"", b""])

    def _frame(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """`headers` with one statement about the end of the body, unless they contradict each other."""
        lengths = [
            each.strip()
            for name, value in headers
            if name.lower() == b"content-length"
            for each in value.split(b",")
        ]
        is_coded = any(name.lower() == b"transfer-encoding" for name, _ in headers)
        if not lengths or (len(set(lengths)) > 1 and not is_coded):
            return headers
        others = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        if is_coded:
            self.force_close()  # the end of this response is uncertain
            return others
        if lengths[0].isdigit():
            self._body_left = int(lengths[0][:18])
        return [*others, (b"Content-Length", lengths[0])]


class _Connector(aiohttp.TCPConnector):
    """Connects with `TolerantResponses`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = partial(TolerantResponses, loop=self._loop)  # type: ignore[assignment]


def open_session(config: DownloadConfig, resolver: GuardedResolver) -> aiohttp.ClientSession:
    """A session without cookies, proxies and redirects of its own; `resolver` caches the addresses."""
    return aiohttp.ClientSession(
        connector=_Connector(resolver=resolver, use_dns_cache=False, limit=config.concurrency),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s),
        headers={
            "User-Agent": config.user_agent,
            "Accept": "image/avif,image/webp,image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",  # images are compressed already; gzip would hide the size
        },
        auto_decompress=False,
        trust_env=False,  # a proxy would resolve names itself, without the checks
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
