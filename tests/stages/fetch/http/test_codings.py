"""Content-Encoding against the encoders themselves: lists of codings, odd streams, bombs."""

import gzip
import random
import zlib

import brotli
import pytest
from backports import zstd

from capfilt.stages.fetch.http.codings import MAX_CODINGS, OVERHEAD_BYTES, PIECE_BYTES, Decoding
from capfilt.stages.status import Failure


def deflate_raw(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


def decode(data: bytes, *headers: str, step: int = 1 << 30, limit: int = 1 << 30) -> bytes:
    """The body of `data`, which arrives in chunks of `step` bytes; it must be complete."""
    decoding = Decoding(headers, limit)
    pieces = []
    for start in range(0, len(data), step):
        pieces += list(decoding.decode(data[start : start + step]))
        if decoding.is_finished:
            break
    assert decoding.is_complete and all(len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize("size", [0, 1, 1000, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES])
@pytest.mark.parametrize("name", ENCODERS)
def test_each_coding(name: str, size: int) -> None:
    for body in (bytes(size), random.Random(size).randbytes(size)):
        data = ENCODERS[name](body)
        assert decode(data, name.upper()) == body
        assert decode(data, name, step=997) == body
        if size <= 1000:
            assert decode(data, name, step=1) == body


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_streams_as_servers_send_them(step: int) -> None:
    body = bytes(range(256)) * 4
    half = gzip.compress(body[:500]) + gzip.compress(body[500:])
    assert decode(half, "gzip", step=step) == body
    assert decode(half + bytes(20), "gzip", step=step) == body
    assert decode(half + b"\x1f\x00 no member", "gzip", step=step) == body
    assert decode(deflate_raw(body), "deflate", step=step) == body
    assert decode(zlib.compress(body) + b"behind", "deflate", step=step) == body
    assert decode(zstd.compress(body[:9]) + zstd.compress(body[9:]), "zstd", step=step) == body


BEHIND = [
    b"x",
    bytes(10),
    b"junk junk",
    b"<!-- served by -->" * 4000,
    b"\x28\xb5\x2f",
    b"\x5f\x2a\x4d\x19",
    b"\x1f",
]


@pytest.mark.parametrize("step", [1, 997, 1 << 30])
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_behind_the_stream_are_ignored(name: str, behind: bytes, step: int) -> None:
    """What the libraries themselves say about the same bytes differs: gzip ignores them, brotli fails."""
    for body in (b"", b"short", random.Random(0).randbytes(3000) + bytes(3 * PIECE_BYTES)):
        assert decode(ENCODERS[name](body) + behind, name, step=step) == body


@pytest.mark.parametrize("name", ENCODERS)
def test_the_end_is_found_wherever_the_chunks_are_cut(name: str) -> None:
    body = random.Random(1).randbytes(300)
    data = ENCODERS[name](body)
    for cut in range(1, len(data)):
        decoding = Decoding([name], 1 << 20)
        chunks = (data[:cut], data[cut:] + b"behind, behind, behind")
        assert b"".join(piece for chunk in chunks for piece in decoding.decode(chunk)) == body
        assert decoding.is_complete and decoding.is_finished


@pytest.mark.parametrize("step", [1, 5, 1 << 30])
def test_several_frames_of_zstd(step: int) -> None:
    body = bytes(range(256)) * 4
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    data = zstd.compress(body[:500]) + skipped + zstd.compress(body[500:])
    assert decode(data + skipped, "zstd", step=step) == decode(data + b"behind", "zstd", step=step) == body


def test_lists_of_codings() -> None:
    body = b"body" * 100
    assert decode(gzip.compress(gzip.compress(body)), "gzip, gzip") == body
    assert decode(brotli.compress(gzip.compress(body)), "gzip , identity", "BR") == body
    assert decode(zlib.compress(brotli.compress(zstd.compress(body))), "zstd,br,deflate", step=5) == body


@pytest.mark.parametrize("header", ["", "identity", "none", "utf-8", "aws-chunked", "jpeg", ","])
def test_what_is_no_coding_is_ignored(header: str) -> None:
    assert decode(b"body", header) == b"body"


@pytest.mark.parametrize("header", ["compress", "gzip, DCB", ", ".join(["gzip"] * (MAX_CODINGS + 1))])
def test_unsupported_codings_are_named(header: str) -> None:
    with pytest.raises(Failure, match=f"Content-Encoding {header.split(', ')[-1].lower()}") as caught:
        Decoding([header], 100)
    assert caught.value.status == "http_invalid"
    Decoding([", ".join(["gzip"] * MAX_CODINGS)], 100)


@pytest.mark.parametrize("name", ENCODERS)
def test_truncated_or_corrupt(name: str) -> None:
    data = ENCODERS[name](random.Random(0).randbytes(3000))
    decoding = Decoding([name], 10_000)
    list(decoding.decode(data[:-1]))
    assert not decoding.is_complete and not decoding.is_finished
    assert not Decoding([name], 10_000).is_complete
    with pytest.raises(Failure, match=rf"not encoded as Content-Encoding says \({name}\)") as caught:
        list(Decoding([name], 10_000).decode(b"\xff\xd8\xff\xe0" * 100))
    assert caught.value.status == "http_invalid"


@pytest.mark.parametrize("name", ENCODERS)
def test_pieces_of_a_bomb_are_made_one_at_a_time(name: str) -> None:
    pieces = Decoding([name], 100).decode(ENCODERS[name](bytes(200 * PIECE_BYTES)))
    sizes = [len(next(pieces)) for _ in range(5)]
    assert max(sizes) <= PIECE_BYTES


def test_bytes_between_codings_are_limited() -> None:
    """1 KB of a bomb whose inner stream is endless, but has no output."""
    inner = gzip.compress(b"") * 1000
    data = gzip.compress(inner)
    assert decode(data, "gzip, gzip", limit=len(inner) - OVERHEAD_BYTES) == b""
    with pytest.raises(Failure, match="exceeds the limit") as caught:
        decode(data, "gzip, gzip", limit=len(inner) - OVERHEAD_BYTES - 1)
    assert caught.value.status == "too_big"


def test_window_of_zstd_is_limited() -> None:
    def compress(log: int) -> bytes:
        options = {zstd.CompressionParameter.window_log: log}
        stream = zstd.ZstdCompressor(options=options)
        return stream.compress(bytes(1000)) + stream.flush()

    assert decode(compress(23), "zstd") == bytes(1000)
    with pytest.raises(Failure, match="not encoded"):
        decode(compress(24), "zstd")
