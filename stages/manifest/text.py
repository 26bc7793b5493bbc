"""Manifests in text formats: lines of JSON, one JSON array, bare urls. Each line or element is a record.

All are read as streams, because published lists have hundreds of millions of rows. A text file is opened, and
cut into lines of bounded length, here too.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from capfilt.stages.manifest.files import ManifestFile

ARRAY_CHUNK = 1 << 20
"""Characters of a JSON array that are read at a time."""
ELEMENT_LIMIT = 1 << 26
"""Characters of an element of a JSON array; Visual Genome's longest has 100,000."""
_WHITESPACE = " \t\r\n"
LINE_LIMIT = 1 << 24
"""Characters of a line, or of a CSV field. Some bytes of a compressed file can be a line that fills the
memory."""
LINES_CHUNK = 1 << 18
"""Characters that are cut into lines at a time."""
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ": "xz"}
OTHER_FORMATS = {b"PAR1": "a Parquet file", b"PK\x03\x04": "a zip archive", b"SQLite": "a SQLite database"}
UTF_32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")


def iter_jsonl(lines: Iterable[str | None]) -> Iterator[Any]:
    """Values of a JSON lines file; None for a line that is too long, nested too deeply, or not JSON.

    Raises:
        ValueError: the first line with content is not JSON, so the file has another format.
    """
    is_first = True
    for number, line in enumerate(lines, start=1):
        if line is not None and not line.strip():
            continue
        try:
            yield None if line is None else json.loads(line, strict=False)
        except ValueError as error:
            if is_first:
                raise ValueError(
                    f"line {number} is not JSON: {error}; one JSON array in a file is rows.format: json"
                ) from error
            yield None
        except RecursionError:  # a thousand opening brackets
            yield None
        is_first = False


def captions_path(urls_path: str) -> str | None:
    """Path of the captions that belong line by line to a list of bare urls: `x_captions.txt` for
    `x_urls.txt`, as in SBU's first release. None if the list has another name."""
    base, separator, compression = urls_path.rpartition("_urls.txt")
    return f"{base}_captions.txt{compression}" if separator and compression in ("", ".gz") else None


def iter_urls(
    urls: Iterable[str | None], captions: Iterable[str | None] | None = None
) -> Iterator[dict[str, str]]:
    """Records {"url"} of bare urls, or {"url", "caption"} of urls and captions that belong together line by
    line. A line that is too long (None) counts as an empty one.

    Raises:
        ValueError: during the iteration, if one of them ends before the other.
    """
    if captions is None:
        yield from ({"url": (line or "").strip()} for line in urls if line is None or line.strip())
        return
    pairs = zip_longest((line or "" for line in urls), (line or "" for line in captions))
    for number, (url, caption) in enumerate(pairs):
        if url is None or caption is None:
            longer, shorter = ("captions", "urls") if url is None else ("urls", "captions")
            raise ValueError(f"it has {number} {shorter} and more {longer}; give one caption per url")
        yield {"url": url.strip(), "caption": caption.rstrip("\r\n")}


def iter_json_array(stream: TextIO) -> Iterator[Any] | None:
    """Elements of a JSON array; None if the document is not an array.

    Raises:
        ValueError: during the iteration, if the array is damaged or incomplete.
    """
    text = ""
    while not text and (chunk := stream.read(ARRAY_CHUNK)):
        text = chunk.lstrip(_WHITESPACE)
    return _iter_elements(text[1:], stream) if text.startswith("[") else None


def _iter_elements(text: str, stream: TextIO) -> Iterator[Any]:
    """Elements of an array of which `text` is what follows the bracket, and `stream` the rest."""
    decoder = json.JSONDecoder(strict=False)  # accepts control characters in texts
    start, at_end = 0, False
    while True:
        start = _skip_whitespace(text, start)
        if text[start : start + 1] == "]":
            return
        try:
            element, after = decoder.raw_decode(text, start)
            after = _skip_whitespace(text, after)
            # Only what follows an element shows that it is complete: 12 may be the beginning of 123.
            is_complete = text[after : after + 1] in (",", "]")
            if not is_complete and (at_end or after < len(text)):
                following = repr(text[after : after + 20]) if after < len(text) else "nothing"
                raise ValueError(
                    f"an element of a JSON array is followed by {following}; expected ',' or ']'"
                )
        except RecursionError as error:
            raise ValueError("an element of a JSON array is nested too deeply") from error
        except json.JSONDecodeError as error:
            if at_end:
                raise ValueError(f"a JSON array is damaged or incomplete: {error.msg}") from error
            is_complete = False
        if is_complete:
            yield element
            start = after + (text[after] == ",")
        else:
            if len(text) - start > ELEMENT_LIMIT:
                raise ValueError(f"an element of a JSON array has more than {ELEMENT_LIMIT:,} characters")
            chunk = stream.read(max(ARRAY_CHUNK, len(text) - start))
            text, start, at_end = text[start:] + chunk, 0, not chunk


def _skip_whitespace(text: str, start: int) -> int:
    while start < len(text) and text[start] in _WHITESPACE:
        start += 1
    return start


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


class LineBlocks:
    """Lines with their ends, None for one that is too long: as `bounded_lines` gives them, or many at a time.

    A line ends with a line feed, a carriage return or both, as the csv module has it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str | None] = []
        self._place = 0
        self._rest = ""
        """What has been read of a line whose end has not."""

    def __iter__(self) -> Iterator[str | None]:
        return self

    def __next__(self) -> str | None:
        if self._place == len(self._lines) and not self._fill():
            raise StopIteration
        self._place += 1
        return self._lines[self._place - 1]

    def take(self) -> list[str | None]:
        """The lines that are in memory, at least one; [] at the end."""
        if self._place == len(self._lines):
            self._fill()
        lines, self._lines, self._place = self._lines[self._place :], [], 0
        return lines

    def give_back(self, lines: list[str | None]) -> None:
        """Make the lines that were taken last the next ones."""
        self._lines, self._place = lines, 0

    def _fill(self) -> bool:
        """Read some lines; returns whether there are any."""
        self._lines, self._place = [], 0
        while not self._lines and (chunk := self._stream.read(LINES_CHUNK)):
            text = self._rest + chunk
            lines: list[str | None] = list(io.StringIO(text, newline=""))
            # The last one may go on, and a line feed may follow a carriage return.
            last = lines.pop() or ""
            self._rest = "" if last.endswith("\n") else last
            if last.endswith("\n"):
                lines.append(last)
            elif len(last) > LINE_LIMIT:
                lines.append(None)
                self._skip_line()
            has_long = len(text) >= LINE_LIMIT
            self._lines = [None if is_too_long(line) else line for line in lines] if has_long else lines
        if not self._lines and self._rest:
            self._lines, self._rest = [None if is_too_long(self._rest) else self._rest], ""
        return bool(self._lines)

    def _skip_line(self) -> None:
        """Skip what is left of a line that is too long."""
        self._rest = ""
        while (piece := self._stream.readline(LINE_LIMIT)) and not piece.endswith(("\n", "\r")):
            pass


def is_too_long(line: str | None) -> bool:
    """Whether a line with its end is longer than `LINE_LIMIT`."""
    return line is None or len(line) > LINE_LIMIT or (len(line) == LINE_LIMIT and line[-1] not in "\n\r")


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
