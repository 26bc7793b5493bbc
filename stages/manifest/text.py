"""Lists that are text: delimited lines, lines of JSON, one JSON array, bare urls. Every line or element is a record.

None of them is read as a whole; lists of the field have hundreds of millions of rows.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, TextIO

READ_AT_ONCE = 1 << 20  # characters of a JSON array
_SPACE = " \t\r\n"


def csv_records(lines: Iterable[str], columns: Sequence[str] = ()) -> Iterator[dict[Any, Any]]:
    """Records of a CSV file, its names from `columns` or its first line; a field that is missing is None."""
    # A caption may be long: the module's own limit of 128 kB per field would end the run on one bad row.
    csv.field_size_limit(1 << 30)
    yield from csv.DictReader(lines, list(columns) or None)


def tsv_records(lines: Iterable[str], columns: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Records of a TSV file, its names from `columns` or its first line; a field that is missing is left out.

    TSV lists of the field (CC3M, CC12M) are not quoted: a lone quote must not swallow lines.
    """
    names = list(columns)
    for line in lines:
        fields = line.rstrip("\r\n").split("\t")
        if fields == [""]:
            continue
        if names:
            yield dict(zip(names, fields, strict=False))
        else:
            names = fields


def jsonl_records(lines: Iterable[str]) -> Iterator[Any]:
    """Values of a JSON lines file; None for a line that is no JSON.

    Raises:
        ValueError: the first line is none, so the file is something else.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield json.loads(line, strict=False)
            except ValueError as error:
                if number == 1:
                    raise ValueError(f"line 1 is not JSON: {error}") from error
                yield None


def captions_beside(path: str) -> str | None:
    """Where the captions of a list of bare urls are, line by line, as SBU's first release has them: `x_captions.txt`
    beside `x_urls.txt`; None where the name is no such one."""
    base, found, packed = path.rpartition("_urls.txt")
    return f"{base}_captions.txt{packed}" if found and packed in ("", ".gz") else None


def url_records(urls: Iterable[str], captions: Iterable[str] | None = None) -> Iterator[dict[str, str]]:
    """Records {"url"} of bare urls, or {"url", "caption"} of two files that belong together line by line.

    Raises:
        ValueError: in the iteration, one of them ends before the other.
    """
    if captions is None:
        yield from ({"url": line.strip()} for line in urls if line.strip())
        return
    for number, (url, caption) in enumerate(zip_longest(urls, captions)):
        if url is None or caption is None:
            longer, ends = ("captions", "urls") if url is None else ("urls", "captions")
            raise ValueError(f"its {ends} end after line {number} and its {longer} do not")
        yield {"url": url.strip(), "caption": caption.rstrip("\r\n")}


def array_items(stream: TextIO) -> Iterator[Any] | None:
    """Elements of a JSON array, one after another; None if the document is none.

    Raises:
        ValueError: in the iteration, where the array is damaged or ends early.
    """
    text = ""
    while not text and (more := stream.read(READ_AT_ONCE)):
        text = more.lstrip(_SPACE)
    return _items(text[1:], stream) if text.startswith("[") else None


def _items(text: str, stream: TextIO) -> Iterator[Any]:
    decoder = json.JSONDecoder(strict=False)  # control characters in a text are no reason to refuse the file
    start, end_of_file = 0, False
    while True:
        start = _skip(text, start)
        if text[start : start + 1] == "]":
            return
        try:
            item, after = decoder.raw_decode(text, start)
            after = _skip(text, after)
            # What follows an element shows that it is whole: 12 may be the beginning of 123.
            whole = text[after : after + 1] in (",", "]") and after < len(text)
            if not whole and (end_of_file or after < len(text)):
                raise ValueError(f"an array goes on with {text[after : after + 20]!r}")
        except json.JSONDecodeError as error:
            if end_of_file:
                raise ValueError(f"a JSON array is damaged or cut off: {error.msg}") from error
            whole = False
        if whole:
            yield item
            start = after + (text[after] == ",")
        else:
            more = stream.read(max(READ_AT_ONCE, len(text) - start))
            text, start, end_of_file = text[start:] + more, 0, not more


def _skip(text: str, start: int) -> int:
    while start < len(text) and text[start] in _SPACE:
        start += 1
    return start
