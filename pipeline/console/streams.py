"""Output streams whose errors do not end the program, and the console that writes to stdout."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 160
"""Columns of output that is not a terminal: rich's default of 80 would break paths and commands."""


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
    return Console(file=cast(TextIO, BrokenPipeSafe(sys.stdout)), width=width)


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
