"""Output streams whose errors do not end the program, and consoles that show foreign text as it is.

Names of files, columns and hosts, captions and messages come from strangers. Control characters in them are
escaped, and brackets are no markup.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

PIPE_WIDTH = 160
"""Columns of output that is not a terminal: rich's default of 80 would break paths and commands."""


_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and line feed, line separators, marks that reorder text, and surrogates,
which no stream can encode (names of files that are not UTF-8)."""


def escape_controls(text: str) -> str:
    """Replace the characters with which text could control a terminal by their escapes, as `\\x1b`."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


class SafeConsole(Console):
    """A console whose text cannot control the terminal, and where brackets and colons are no markup.

    Styles are given by `Text` objects and tables.

    Args:
        options: those of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Like rich's, with the control characters of the text escaped; rich's own ones stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape_controls(segment.text), segment.style)


class BrokenPipeSafe:
    """A text stream that ignores write errors: a closed terminal or pipe, or a full disk under a log file.

    The output is lost, the run continues.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_console() -> Console:
    """The console on stdout, for everything a command prints as its result."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return SafeConsole(file=cast(TextIO, BrokenPipeSafe(sys.stdout)), width=width)


def make_error_console() -> Console:
    """The console on stderr, for commands whose stdout is data for other programs."""
    width = None if sys.stderr.isatty() else PIPE_WIDTH
    return SafeConsole(file=cast(TextIO, BrokenPipeSafe(sys.stderr)), width=width)


def print_labeled(console: Console, label: str, message: str, style: str) -> None:
    """Print `label message` on one line, the label in `style`. Brackets in the message are no markup."""
    console.print(Text.assemble((label, style), " ", message), soft_wrap=True)


def flush_output() -> None:
    """Write what is buffered, or drop it if that fails: Python would otherwise exit with code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
