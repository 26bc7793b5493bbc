"""Processor time of this process and all that it has started, by what they are."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

INTERVAL_S = 0.3
TICKS = os.sysconf("SC_CLK_TCK")


class CpuMeter:
    """Measures from its making until `stop`; what a process uses right before its end is lost."""

    def __init__(self) -> None:
        self._before = cpu_seconds()
        self._last: dict[int, tuple[str, float]] = {}
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """Seconds of the actors with models, of tasks that read and write, of Ray, and of this process."""
        self._left.set()
        self._thread.join()
        total: dict[str, float] = {}
        for pid, (kind, seconds) in self._last.items():
            total[kind] = total.get(kind, 0.0) + seconds - self._before.get(pid, ("", 0.0))[1]
        return {kind: round(seconds, 2) for kind, seconds in total.items()}

    def _watch(self) -> None:
        while True:
            self._last |= cpu_seconds()
            if self._left.wait(INTERVAL_S):
                self._last |= cpu_seconds()
                return


def cpu_seconds() -> dict[int, tuple[str, float]]:
    """{process id: (kind, processor time so far)} of this process and its descendants."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                seconds[int(entry.name)] = (int(fields[11]) + int(fields[12])) / TICKS
    found = {pid: (_kind(pid), used) for pid, used in seconds.items() if _is_descendant(pid, parents)}
    return {pid: (kind, used) for pid, (kind, used) in found.items() if kind is not None}


def _kind(pid: int) -> str | None:
    """What a process is; None if it has ended and only its parent has not noticed."""
    if pid == os.getpid():
        return "driver"
    command = ""
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    if not command:
        return None
    if command.startswith("ray::MapWorker"):
        return "actors"
    return "tasks" if command.startswith("ray::") else "ray"


def _is_descendant(pid: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = parents.get(pid, 0)
    return False
