"""NEW FILE."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

from rich.console import Console


class BrokenPipeSafe:
    """A stream that may lose its reader: a terminal that is closed, a pipe's other end, a full disk under a log. What
    was to be said is lost then, the run is not."""

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
    """Where everything is printed."""
    # Piped output has no width of its own; 80 columns would break paths and commands.
    return Console(file=cast(TextIO, BrokenPipeSafe(sys.stdout)), width=None if sys.stdout.isatty() else 160)


def flush_output() -> None:
    """What is still to be written is written, or dropped if it cannot be: Python would end with another exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
