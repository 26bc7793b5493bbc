"""Opens the text of a manifest file, and cuts it into lines of bounded length."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capfilt.stages.manifest.files import ManifestFile

LINE_LIMIT = 1 << 24
"""Characters of a line, or of a CSV field. Some bytes of a compressed file can be a line that fills the
memory."""
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ": "xz"}
OTHER_FORMATS = {b"PAR1": "a Parquet file", b"PK\x03\x04": "a zip archive", b"SQLite": "a SQLite database"}
UTF_32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")


def open_text(file: ManifestFile, path: str) -> io.TextIOWrapper:
    """A file of text, decompressed. Bytes that are not UTF-8 (or UTF-16, with its mark) are replaced.

    Raises:
        ValueError: the first bytes show that the file is no text.
    """
    start = _read_start(file, path, None)
    compression = next((name for mark, name in COMPRESSIONS.items() if start.startswith(mark)), None)
    if compression is not None:
        start = _read_start(file, path, compression)
    elif path.endswith(".gz") and start:
        raise ValueError("it has the suffix .gz, but is not compressed by gzip; rename it")
    encoding = _encoding_of(start)
    raw = file.fs.open(path, "rb", compression=compression)
    # The csv module ends lines itself. In other formats only a line feed does: a carriage return may be in a
    # text.
    newline = "" if file.format == "csv" else "\n"
    return io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline=newline)


def bounded_lines(stream: io.TextIOBase) -> Iterator[str | None]:
    """Lines with their ends; None for a line of more than `LINE_LIMIT` characters."""
    while line := stream.readline(LINE_LIMIT):
        if len(line) < LINE_LIMIT or line.endswith(("\n", "\r")):
            yield line
            continue
        while (piece := stream.readline(LINE_LIMIT)) and not piece.endswith(("\n", "\r")):
            pass
        yield None


def _read_start(file: ManifestFile, path: str, compression: str | None) -> bytes:
    with file.fs.open(path, "rb", compression=compression) as stream:
        return bytes(stream.read(64))


def _encoding_of(start: bytes) -> str:
    for mark, name in OTHER_FORMATS.items():
        if start.startswith(mark):
            raise ValueError(f"it is {name}")
    if start.startswith(UTF_32):
        raise ValueError("it is UTF-32; save it as UTF-8")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in start[:4]:
        raise ValueError("it has NUL bytes: UTF-16 without a byte order mark, or no text; save it as UTF-8")
    return "utf-8-sig"
