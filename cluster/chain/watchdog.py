"""What watches a stage at work: time without progress and memory, each with a limit that ends the process.

Ray has neither. A process that ends itself is a process that died: the shard is tried again, carefully
(`cluster.chain.engine`).
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MEMORY_LOOKS_S = 0.5
"""Pause between two looks at a process's memory."""
MEMORY_EXIT = 77
"""Exit code of a process that held more memory than it may."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a stage's process may take; None = no limit."""

    stall_seconds: float | None = None
    """Time within which a stage must get further."""
    memory: int | None = None
    """Private memory of the process in bytes."""

    def too_much_memory(self, pid: int) -> str | None:
        """What to say of a process that holds more than it may."""
        if self.memory is None or (held := private_memory(pid)) <= self.memory:
            return None
        return f"took {held / 1e9:.1f} GB of memory, {self.memory / 1e9:.1f} GB are allowed"


class Watchdog:
    """Watches while its body runs, and ends the process when a limit is passed.

    Time is watched by `faulthandler`, whose own thread needs no lock of Python's: native code that never comes back
    is ended too, with its stack in the worker's log.

    Args:
        limits: see there.
        last_words: receives the cause before the process ends for its memory; may wait a moment.
    """

    def __init__(self, limits: Limits, last_words: Callable[[str], None]) -> None:
        self.limits, self.last_words = limits, last_words
        self._over = threading.Event()
        self._beat = 0.0
        self._active = False

    def __enter__(self) -> Self:
        self._active, self._over = True, threading.Event()
        self._arm()
        if self.limits.memory is not None:
            threading.Thread(target=self._watch_memory, args=(self._over,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._active = False
        self._over.set()
        if self.limits.stall_seconds is not None:
            faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """The stage got further. Called for every row: only now and then does it cost anything."""
        limit = self.limits.stall_seconds
        if self._active and limit is not None and time.monotonic() - self._beat > min(1.0, limit / 4):
            self._arm()

    def _arm(self) -> None:
        self._beat = time.monotonic()
        if self.limits.stall_seconds is not None:
            stack = sys.__stderr__ or sys.stderr
            faulthandler.dump_traceback_later(self.limits.stall_seconds, exit=True, file=stack)

    def _watch_memory(self, over: threading.Event) -> None:
        while not over.wait(MEMORY_LOOKS_S):
            if (cause := self.limits.too_much_memory(os.getpid())) is not None:
                self.last_words(cause)
                os._exit(MEMORY_EXIT)


def private_memory(pid: int) -> int:
    """Bytes of memory that belong to this process alone, Ray's object store not among them; 0 where the system
    has no /proc or the process is gone."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def watch_progress(stage: object, beat: Callable[[], None]) -> None:
    """Let a stage tell `beat` whenever it gets further, if it can: a stage that takes minutes for a shard has a
    method `on_progress(told)` for it. Of any other, the whole call counts as one step."""
    on_progress = getattr(stage, "on_progress", None)
    if on_progress is not None:
        on_progress(beat)
