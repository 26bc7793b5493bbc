"""The output of the commands: JSON lines for programs, short lines for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.text import Text

from capfilt.pipeline.console.activity import Tell
from capfilt.pipeline.use.pictures import Picture
from capfilt.stages.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from capfilt.pipeline.use.describe import Describer, Record

BROKEN_PIPE = 141
"""Exit code of a program whose reader has gone: 128 + SIGPIPE."""


class OutputError(UserError):
    """The output cannot be written."""


@dataclass
class Lines:
    """Prints records.

    Args:
        console: for people; None prints JSON lines on stdout.
        describe: a record in words.
        heading: the field under whose value records are grouped for people: the picture, or the text.
    """

    console: Console | None
    describe: Callable[[Record], str]
    heading: str = "image"
    _shown: str | None = field(default=None, init=False)

    def show(self, path: str, records: Sequence[Record]) -> None:
        """Print the records of a picture."""
        for record in records:
            self._show({"image": printable(path), **record}, is_only=len(records) == 1)

    def show_failure(self, picture: Picture) -> None:
        """Print why a picture cannot be used."""
        path = printable(picture.path)
        if self.console is None:
            _write({"image": path, "status": picture.status, "message": picture.message})
            return
        line = Text.assemble((path, "bold"), ": ", (picture.status, "red"), f", {picture.message}")
        self.console.print(line, soft_wrap=True)

    def _show(self, record: Record, *, is_only: bool) -> None:
        if self.console is None:
            _write({"image": record["image"], "status": "success", **record})
            return
        heading, words = record[self.heading], self.describe(record)
        if is_only and self.heading == "image":
            self.console.print(Text.assemble((heading, "bold"), f": {words}"), soft_wrap=True)
            return
        if heading != self._shown:
            self.console.print(Text(heading, style="bold"), soft_wrap=True)
            self._shown = heading
        self.console.print(Text(f"  {words}"), soft_wrap=True)


def _write(record: dict[str, Any]) -> None:
    """Write one JSON line.

    Raises:
        SystemExit: nobody reads the output any more.
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    except BrokenPipeError:
        _end_quietly()


def flush() -> None:
    """Write what is buffered, so that a reader sees each batch at once; the errors are those of `_write`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _end_quietly()
    except OSError as error:
        raise OutputError(f"stdout cannot be written ({error.strerror or error})") from error


def _end_quietly() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more
    raise SystemExit(BROKEN_PIPE) from None


def printable(path: str) -> str:
    """A path as text: bytes that are no UTF-8 as escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@dataclass
class Counts:
    """Pictures that were read, and those that could not be."""

    pictures: int = 0
    failed: int = 0


def print_all(chunks: Iterable[list[Picture]], describer: Describer, lines: Lines, tell: Tell) -> Counts:
    """Describe all pictures and print the records, in the order of the pictures."""
    counts = Counts()
    for chunk in chunks:
        good = [picture for picture in chunk if picture.image is not None]
        found = iter(describer.describe(good) if good else [])
        for picture in chunk:
            if picture.image is None:
                lines.show_failure(picture)
            else:
                lines.show(picture.path, next(found))
        counts.pictures += len(chunk)
        counts.failed += len(chunk) - len(good)
        flush()
        tell(f"{counts.pictures:,} pictures")
    for path, record in describer.finish():
        lines.show(path, [record])
    flush()
    return counts
