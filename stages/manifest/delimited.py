"""CSV and TSV as records. Both skip empty lines; the names come from the config or from the first line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from capfilt.stages.manifest.columns import URL_NAMES, fold
from capfilt.stages.manifest.text import LINE_LIMIT

DELIMITERS = (",", "\t", ";", "|")
"""Delimiters of CSV files, the usual one first."""


def iter_csv(
    lines: Iterable[str | None], columns: Sequence[str] = (), url_column: str | None = None
) -> Iterator[dict[Any, Any]]:
    """Records of a CSV file; a missing field is None.

    The delimiter is the first of `DELIMITERS` that separates a column of urls from others in the first line.

    Args:
        lines: lines with their ends, None for one that is too long.
        columns: names of the columns, for a file without a header line.
        url_column: name of the column of urls, if it has not one of the usual names.

    Raises:
        ValueError: a quote is never closed, or is closed in the middle of a field of another line.
    """
    csv.field_size_limit(LINE_LIMIT)  # the csv module's own limit of 128 kB would refuse long captions
    counted = _CountedLines(lines)
    first = next((line for line in counted if line.strip()), "")
    delimiter = _find_delimiter(first, columns, url_column)
    counted.resume_with(first)
    has_spaces = f"{delimiter} " in first and not columns  # `url, "a caption"`
    reader = csv.reader(counted, delimiter=delimiter, skipinitialspace=has_spaces)
    names = list(columns)
    while True:
        start = counted.number + 1
        counted.taken.clear()
        try:
            fields = next(reader, None)
            if len(counted.taken) > 1 or counted.at_end:
                # Only a record of several lines, or one that ends with the file, can have swallowed other
                # rows. The strict parser says whether its quotes fit.
                strict = csv.reader(
                    counted.taken, delimiter=delimiter, skipinitialspace=has_spaces, strict=True
                )
                list(strict)
        except csv.Error as error:
            raise ValueError(
                f"line {start}: a quote that is opened in this record is not closed properly ({error}); "
                "double the quotes inside a quoted field, or remove the single one"
            ) from error
        if fields is None:
            return
        if not fields:
            continue
        if not names:
            names = fields
            continue
        yield _record(names, fields)


def iter_tsv(lines: Iterable[str | None], columns: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Records of a TSV file; a missing field is left out, and a line that is too long is an empty record.

    Quotes have no meaning: published TSV lists (CC3M, CC12M) do not quote, and a single quote must not join
    lines.

    Raises:
        ValueError: a quoted field goes over several lines, so that the file has to be read with quotes.
    """
    names = list(columns)
    has_open_quote = False
    for number, line in enumerate(lines, start=1):
        fields = [] if line is None else line.rstrip("\r\n").split("\t")
        if fields == [""]:
            continue
        if has_open_quote and 0 < len(fields) < len(names) and fields[0].endswith('"'):
            raise ValueError(
                f"lines {number - 1} and {number} are one row with a quoted field; in a TSV quotes have no "
                "meaning: set rows.format: csv, which reads tabs and quotes"
            )
        last = fields[-1] if len(fields) == len(names) else ""
        has_open_quote = last.startswith('"') and last.count('"') % 2 == 1
        if names:
            yield dict(zip(names, fields, strict=False))
        else:
            names = fields


def _record(names: Sequence[str], fields: Sequence[str]) -> dict[Any, Any]:
    """A record; of two columns with one name the first counts."""
    record: dict[Any, Any] = {}
    for index, name in enumerate(names):
        record.setdefault(name, fields[index] if index < len(fields) else None)
    return record


def _find_delimiter(line: str, columns: Sequence[str], url_column: str | None) -> str:
    url_names = {fold(url_column)} if url_column else set(URL_NAMES)
    best, most = DELIMITERS[0], 1
    for delimiter in DELIMITERS:
        fields = next(csv.reader([line], delimiter=delimiter), [])
        if columns and len(fields) == len(columns):
            return delimiter
        if not columns and len(fields) > 1 and url_names & {fold(field) for field in fields}:
            return delimiter
        if len(fields) > 1 and most == 1:
            best, most = delimiter, len(fields)
    return best


class _CountedLines:
    """Lines for the csv module: counts them, and keeps those of the present record.

    Raises:
        ValueError: during the iteration, at a line that is too long.
    """

    def __init__(self, lines: Iterable[str | None]) -> None:
        self._lines = iter(lines)
        self.number, self.at_end = 0, False
        self.taken: list[str] = []
        """Lines of the present record."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except StopIteration:
            self.at_end = True
            raise
        self.number += 1
        if line is None:
            raise ValueError(f"line {self.number} is longer than {LINE_LIMIT:,} characters; it is no list")
        self.taken.append(line)
        return line

    def resume_with(self, line: str) -> None:
        """Make `line`, the last one taken, the next one again."""
        if line:
            self._lines, self.number = chain([line], self._lines), self.number - 1
