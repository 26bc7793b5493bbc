"""CSV and TSV as records. Both skip empty lines; the names come from the config or from the first line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from capfilt.stages.manifest.columns import URL_NAMES, fold
from capfilt.stages.manifest.text import LINE_LIMIT, LineBlocks

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
    names = list(columns)
    records = _Records(_CountedLines(lines), columns, url_column)
    while (fields := records.read()) is not None:
        if not fields:
            continue
        if not names:
            names = fields
            continue
        yield _record(names, fields)


def iter_csv_blocks(
    lines: LineBlocks, columns: Sequence[str] = (), url_column: str | None = None
) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Records of a CSV file, many at a time.

    Args:
        lines: of the file.
        columns, url_column: as in `iter_csv`.

    Yields:
        The names of the columns, and the fields of some records, without empty ones. They are those that
        `iter_csv` gives.

    Raises:
        ValueError: as in `iter_csv`.
    """
    names = list(columns)
    counted = _CountedLines(lines)
    records = _Records(counted, columns, url_column)
    while (block := records.read_block(lines)) is not None:
        found = block if all(block) else [fields for fields in block if fields]
        if found and not names:
            names, *found = found
        if found:
            yield names, found


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


class _Records:
    """Parses records, and finds the delimiter in the first line that is not empty."""

    def __init__(self, counted: _CountedLines, columns: Sequence[str], url_column: str | None) -> None:
        csv.field_size_limit(LINE_LIMIT)  # the csv module's own limit of 128 kB would refuse long captions
        self._counted = counted
        first = next((line for line in counted if line.strip()), "")
        delimiter = _find_delimiter(first, columns, url_column)
        counted.resume_with(first)
        has_spaces = f"{delimiter} " in first and not columns  # `url, "a caption"`
        self._parse = partial(csv.reader, delimiter=delimiter, skipinitialspace=has_spaces)
        self._reader = self._parse(counted)

    def read(self) -> list[str] | None:
        """The fields of the next record, [] of an empty line; None at the end.

        Raises:
            ValueError: see `iter_csv`.
        """
        counted = self._counted
        start = counted.number + 1
        counted.taken.clear()
        try:
            fields: list[str] | None = next(self._reader, None)
            if len(counted.taken) > 1 or counted.at_end:
                # Only a record of several lines, or one that ends with the file, can have swallowed other
                # rows. The strict parser says whether its quotes fit.
                list(self._parse(counted.taken, strict=True))
        except csv.Error as error:
            raise ValueError(
                f"line {start}: a quote that is opened in this record is not closed properly ({error}); "
                "double the quotes inside a quoted field, or remove the single one"
            ) from error
        return fields

    def read_block(self, lines: LineBlocks) -> list[list[str]] | None:
        """The fields of some records; None at the end.

        Args:
            lines: those that are counted.

        Raises:
            ValueError: see `iter_csv`.
        """
        if self._counted.has_resumed:
            fields = self.read()
            return None if fields is None else [fields]
        block = lines.take()
        if not block:
            return None
        if (records := self._parse_lines(block)) is not None:
            self._counted.number += len(block)
            return records
        lines.give_back(block)
        end, found = self._counted.number + len(block), []
        while self._counted.number < end and (fields := self.read()) is not None:
            found.append(fields)
        return found

    def _parse_lines(self, lines: Sequence[str | None]) -> list[list[str]] | None:
        """The fields of each line, if every line is a record by itself; else None."""
        whole = [line for line in lines if line is not None]
        if len(whole) < len(lines):
            return None
        try:
            records = list(self._parse(whole))
            list(self._parse(whole[-1:], strict=True))  # raises if the last record goes on
        except csv.Error:
            return None
        return records if len(records) == len(lines) else None


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
        self._resumed: list[str] = []
        self.taken: list[str] = []
        """Lines of the present record."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = self._resumed.pop() if self._resumed else next(self._lines)
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
            self._resumed, self.number = [line], self.number - 1

    @property
    def has_resumed(self) -> bool:
        """Whether the next line is one that was taken before."""
        return bool(self._resumed)
