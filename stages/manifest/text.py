"""Manifests in text formats: lines of JSON, one JSON array, bare urls. Each line or element is a record.

All are read as streams, because published lists have hundreds of millions of rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, TextIO

ARRAY_CHUNK = 1 << 20
"""Characters of a JSON array that are read at a time."""
ELEMENT_LIMIT = 1 << 26
"""Characters of an element of a JSON array; Visual Genome's longest has 100,000."""
_WHITESPACE = " \t\r\n"


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
