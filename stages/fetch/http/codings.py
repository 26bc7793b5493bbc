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
_ZSTD_START = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPED = b"\x2a\x4d\x18"
"""Last three bytes with which a frame begins that is to be skipped; the first is 0x50 to 0x5F."""


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
    """One stream of brotli.

    The library raises an error for a chunk in which the stream ends before the chunk does, and what the
    stream still held is lost. So a second decoder stays one chunk behind, and takes such a chunk byte by
    byte.
    """

    def __init__(self) -> None:
        self._stream, self._behind = brotli.Decompressor(), brotli.Decompressor()
        self._last = b""

    @property
    def is_finished(self) -> bool:
        return bool(self._stream.is_finished())

    is_complete = is_finished

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        for start in range(0, len(chunk), PIECE_BYTES):
            if self.is_finished:
                return
            yield from self._decode_part(chunk[start : start + PIECE_BYTES])

    def _decode_part(self, part: bytes) -> Iterator[bytes]:
        for _ in self._process(self._behind, self._last):
            pass
        self._last = part
        known = 0
        try:
            for piece in self._process(self._stream, part):
                known += len(piece)
                yield piece
        except brotli.error:
            self._stream = self._behind
            yield from self._decode_to_end(part, known)

    def _decode_to_end(self, part: bytes, known: int) -> Iterator[bytes]:
        """Decode bytes among which the stream ends, or is damaged; the first `known` bytes of output are
        left out."""
        for position in range(len(part)):
            for piece in self._process(self._stream, part[position : position + 1]):
                yield piece[known:]
                known = max(0, known - len(piece))
            if self.is_finished:
                return

    @staticmethod
    def _process(stream: brotli.Decompressor, data: bytes) -> Iterator[bytes]:
        """Give data to a decoder and take output until it has none left; a piece exceeds the limit by up to
        16 KB."""
        while piece := stream.process(data, output_buffer_limit=PIECE_BYTES // 4):
            data = b""
            yield piece


class _Zstd:
    """zstd with any number of frames; bytes behind the last one are ignored."""

    def __init__(self) -> None:
        self._stream, self._start = self._open(), b""
        self.is_finished = False

    @property
    def is_complete(self) -> bool:
        # A frame has ended, and at most the beginning of what may be another one has arrived.
        return self._stream.eof

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        chunk, self._start = self._start + chunk, b""
        while not self.is_finished:
            if self._stream.eof:
                if len(chunk) < len(_ZSTD_START):
                    self._start = chunk
                    return
                if not _is_zstd_frame(chunk):
                    self.is_finished = True
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


def _is_zstd_frame(data: bytes) -> bool:
    """Whether a frame begins here: one with content, or one to skip (RFC 8878, 3.1)."""
    return data.startswith(_ZSTD_START) or (data[0] & 0xF0 == 0x50 and data[1:4] == _ZSTD_SKIPPED)


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
