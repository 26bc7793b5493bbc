"""What a command is doing while no node runs: connecting, reading checkpoints, starting Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.status import Status
from rich.text import Text

from capfilt.pipeline.console.progress import LINE_EVERY_SECONDS, TIME_FORMAT
from capfilt.pipeline.console.throughput import format_duration

QUIET_SECONDS = 5.0
"""Where the output is no terminal, nothing is printed about what takes less than this."""
TICK_SECONDS = 0.5

Tell = Callable[[str], None]
"""Receives what the program begins to do."""


def tell_nobody(doing: str) -> None:
    """A `Tell` for callers that show nothing."""


def hidden_activity() -> Activity:
    """An activity that shows nothing."""
    return Activity(Console(quiet=True, force_terminal=False))


class Activity:
    """Shows what the program is doing: a spinner on a terminal; elsewhere a line with a time stamp, after a
    few seconds and then every `LINE_EVERY_SECONDS`. A thread prints, so the body may block.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._doing: str | None = None
        self._since = self._printed = 0.0
        self._status: Status | None = None

    def __enter__(self) -> Activity:
        if not self.console.is_terminal:
            threading.Thread(target=self._tick, name="capfilt-activity", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self.stop()

    def __call__(self, doing: str) -> None:
        """The program begins to do something else.

        Args:
            doing: in words, for example "starting Ray".
        """
        self._show(doing)

    def update(self, doing: str) -> None:
        """Change the description of the work, for example its count; the time goes on."""
        with self._lock:
            is_new = self._doing is None
            if not is_new:
                self._doing = doing
                if self._status is not None:
                    self._status.update(Text(doing))
        if is_new:
            self._show(doing)

    def stop(self) -> None:
        """Show nothing more."""
        self._show(None)

    def draw(self) -> None:
        """Print a line if it is time to."""
        with self._lock:
            now = time.monotonic()
            seconds = now - self._since
            if self._doing is None or seconds < QUIET_SECONDS or now - self._printed < LINE_EVERY_SECONDS:
                return
            self._printed = now
            line = f"{time.strftime(TIME_FORMAT)}  {self._doing} ({format_duration(seconds)})"
        self.console.print(Text(line), soft_wrap=True)

    def _show(self, doing: str | None) -> None:
        with self._lock:
            self._doing, self._since = doing, time.monotonic()
            self._printed = self._since - LINE_EVERY_SECONDS
        if not self.console.is_terminal:
            return
        if self._status is not None:
            self._status.stop()
        self._status = None if doing is None else self.console.status(Text(doing))
        if self._status is not None:
            self._status.start()

    def _tick(self) -> None:
        while not self._stopped.wait(TICK_SECONDS):
            self.draw()
