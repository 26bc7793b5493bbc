"""Terminate a process in which a stage makes no progress or uses too much memory.

Ray has neither limit. A terminated process counts as a process that died: Ray starts it again and retries the
shard, then in a subprocess (`cluster.chain.steps.StageRunner`).
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

from capfilt.cluster.chain.stage import ReportsProgress

MEMORY_CHECK_INTERVAL_S = 0.5
"""Seconds between two measurements of a process's memory."""
MEMORY_EXIT_CODE = 77
"""Exit code of a process that exceeded its memory limit."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a stage's worker process; None = no limit."""

    stall_seconds: float | None = None
    """Longest time without progress (`cluster.stall_seconds`)."""
    memory: int | None = None
    """Private memory of the process in bytes (`cluster.worker_memory_gb`)."""

    def check_memory(self, pid: int) -> str | None:
        """Describe by how much a process exceeds its memory limit; None if it does not."""
        if self.memory is None or (used := private_memory(pid)) <= self.memory:
            return None
        limit = f"{self.memory / 1e9:.1f} GB (cluster.worker_memory_gb)"
        return f"used {used / 1e9:.1f} GB of memory, the limit is {limit}"


class Watchdog:
    """Context manager that watches this process and terminates it when a limit is exceeded.

    Time is watched by `faulthandler`, whose thread does not need the GIL: native code that never returns is
    terminated, too, and its stack is written to the worker's log.

    Args:
        limits: what the process may use.
        on_limit_exceeded: called with the cause before the process exits for its memory; may block briefly.
    """

    def __init__(self, limits: Limits, on_limit_exceeded: Callable[[str], None]) -> None:
        self.limits, self.on_limit_exceeded = limits, on_limit_exceeded
        self._left = threading.Event()
        self._last_armed = 0.0
        self._active = False

    def __enter__(self) -> Self:
        self._active, self._left = True, threading.Event()
        self._arm_stall_timer()
        if self.limits.memory is not None:
            threading.Thread(target=self._watch_memory, args=(self._left,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._active = False
        self._left.set()
        if self.limits.stall_seconds is not None:
            faulthandler.cancel_dump_traceback_later()

    def observe(self, stage: object) -> None:
        """Let a stage reset the timer whenever it reports progress. The call of any other stage is one step,
        which as a whole must finish within the time limit."""
        if isinstance(stage, ReportsProgress):
            stage.on_progress(self.record_progress)

    def record_progress(self) -> None:
        """Restart the time limit. Cheap enough to be called for every row: the timer is reset at most once a
        second, or four times within a shorter limit."""
        limit = self.limits.stall_seconds
        if self._active and limit is not None and time.monotonic() - self._last_armed > min(1.0, limit / 4):
            self._arm_stall_timer()

    def _arm_stall_timer(self) -> None:
        self._last_armed = time.monotonic()
        if self.limits.stall_seconds is not None:
            log = sys.__stderr__ or sys.stderr
            faulthandler.dump_traceback_later(self.limits.stall_seconds, exit=True, file=log)

    def _watch_memory(self, left: threading.Event) -> None:
        while not left.wait(MEMORY_CHECK_INTERVAL_S):
            if (cause := self.limits.check_memory(os.getpid())) is not None:
                self.on_limit_exceeded(cause)
                os._exit(MEMORY_EXIT_CODE)


def private_memory(pid: int) -> int:
    """Resident memory of a process in bytes without shared pages, such as Ray's object store; 0 if the system
    has no /proc or the process has exited."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
