"""Content-Encoding: decodes bodies in small pieces, also those with several codings.

The fetcher asks for `identity`, but some servers compress anyway. As browsers do, names that are no coding
("none", "utf-8") are ignored: the body is what it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import brotli  # type: ignore[import-untyped]
from backports import zstd

from capfilt.stages.status import Failure

PIECE_BYTES = 65536
"""Bytes of a compressed body that are decompressed at a time."""
OVERHEAD_BYTES = 1024
"""By how much a small compressed body may be longer than the body."""
MAX_CODINGS = 4
ZSTD_WINDOW_LOG = 23
"""8 MB of memory per body, as RFC 9659 says for HTTP."""
NOT_SUPPORTED = frozenset({"compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "aes128gcm"})
"""Registered codings that are not decoded: their bodies are no images."""

_GZIP_START = b"\x1f\x8b"


class _Decoder(Protocol):
    """Decodes one coding. After `is_finished`, further bytes are ignored."""

    @property
    def is_finished(self) -> bool: ...

    @property
    def is_complete(self) -> bool: ...

    def decode(self, chunk: bytes) -> Iterator[bytes]: ...


class Decoding:
    """The codings of one body, undone in pieces of at most `PIECE_BYTES`.

    Args:
        headers: the values of all Content-Encoding headers.
        limit: bytes of the body. Between two codings there may be as many.

    Raises:
        Failure: http_invalid, a coding that is not supported, or more than `MAX_CODINGS`.
    """

    def __init__(self, headers: Iterable[str], limit: int) -> None:
        names = [name.strip().lower() for header in headers for name in header.split(",")]
        known = [name for name in names if name in _DECODERS or name in NOT_SUPPORTED]
        refused = [name for name in known if name in NOT_SUPPORTED]
        if refused or len(known) > MAX_CODINGS:
            raise Failure("http_invalid", f"Content-Encoding {', '.join(refused or known)} is not supported")
        self._names = known[::-1]  # the last coding was applied last
        self._limit, self._between = limit, 0
        self._decoders = [_DECODERS[name]() for name in self._names]

    @property
    def is_finished(self) -> bool:
        """Whether the compressed stream has ended, so that further bytes are not part of it."""
        return any(decoder.is_finished for decoder in self._decoders)

    @property
    def is_complete(self) -> bool:
        """Whether the body is not truncated. What follows in outer streams is no part of it."""
        return not self._decoders or self._decoders[-1].is_complete

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the body.

        Raises:
            Failure: http_invalid, they are not encoded as the header says; or too_big.
        """
        try:
            yield from self._undo(0, chunk)
        except (zlib.error, brotli.error, zstd.ZstdError) as error:
            raise Failure(
                "http_invalid",
                f"the body is not encoded as Content-Encoding says ({self._names[0]}): {error}",
            ) from error

    def _undo(self, level: int, chunk: bytes) -> Iterator[bytes]:
        if level == len(self._decoders):
            if chunk:
                yield chunk
            return
        if level:
            self._between += len(chunk)
            if self._between > self._limit + OVERHEAD_BYTES:
                raise Failure("too_big", f"the body exceeds the limit of {self._limit} bytes")
        for piece in self._decoders[level].decode(chunk):
            yield from self._undo(level + 1, piece)


class _Inflate:
    """gzip with any number of members, and deflate with or without its zlib header.

    Args:
        wbits: of zlib; None for deflate, whose header decides.
    """

    def __init__(self, wbits: int | None) -> None:
        self._wbits, self._start = wbits, b""
        self._stream = zlib.decompressobj(wbits) if wbits is not None else None
        self.is_finished = False

    @property
    def is_complete(self) -> bool:
        # A member has ended, and at most the first byte of what may be another one has arrived.
        return self._stream is not None and self._stream.eof

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        chunk, self._start = self._start + chunk, b""
        while chunk and not self.is_finished:
            if self._stream is None or self._stream.eof:
                if len(chunk) < 2:
                    self._start = chunk
                    return
                if not self._open(chunk):
                    self.is_finished = True
                    return
            assert self._stream is not None
            piece = self._stream.decompress(chunk, PIECE_BYTES)
            yield piece
            chunk = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if not chunk and len(piece) == PIECE_BYTES and not self._stream.eof:
                yield from self._rest()

    def _rest(self) -> Iterator[bytes]:
        """What the stream still holds after all of its input was consumed."""
        assert self._stream is not None
        while piece := self._stream.decompress(self._stream.unconsumed_tail, PIECE_BYTES):
            yield piece

    def _open(self, chunk: bytes) -> bool:
        """Begin a stream at `chunk`; False if these are bytes behind the last one."""
        if self._stream is not None:
            if self._wbits is None or chunk[:2] != _GZIP_START:
                return False
            self._stream = zlib.decompressobj(self._wbits)
        else:
            has_header = chunk[0] & 15 == 8 and int.from_bytes(chunk[:2]) % 31 == 0
            self._stream = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        return True


class _Brotli:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    @property
    def is_finished(self) -> bool:
        return bool(self._stream.is_finished())

    is_complete = is_finished

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        if self.is_finished:
            return
        piece = chunk
        while piece:  # until it has no output left; it exceeds the limit by up to 16 KB
            piece = self._stream.process(chunk, output_buffer_limit=PIECE_BYTES // 4)
            chunk = b""
            yield piece


class _Zstd:
    """zstd with any number of frames."""

    def __init__(self) -> None:
        self._stream = self._open()
        self.is_finished = False

    @property
    def is_complete(self) -> bool:
        return self._stream.eof

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        while not self.is_finished:
            if self._stream.eof:
                if not chunk:
                    return
                self._stream = self._open()
            yield self._stream.decompress(chunk, PIECE_BYTES)
            if not self._stream.eof and self._stream.needs_input:
                return
            chunk = self._stream.unused_data if self._stream.eof else b""

    @staticmethod
    def _open() -> zstd.ZstdDecompressor:
        options = {int(zstd.DecompressionParameter.window_log_max): ZSTD_WINDOW_LOG}
        return zstd.ZstdDecompressor(options=options)


def _gzip() -> _Inflate:
    return _Inflate(16 + zlib.MAX_WBITS)


def _deflate() -> _Inflate:
    return _Inflate(None)


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}
