"""SIGINT, SIGTERM and SIGHUP: what is in flight is finished and committed, then the program ends; a second signal ends it at
once.

The reading stage is told by a file in the run directory, because its processes may run on other machines: from then
on it gives no rows, and the shards that are under way run dry through the chain.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from capfilt.stages.storage.layout import STOP_FILE
from capfilt.stages.storage.store import Store

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Those that are ignored stay so, as SIGHUP is under `nohup`."""


class Stopped(Exception):
    """A node that ended early because the run is to stop."""


class Interrupted(Exception):
    """The run was asked to stop, and has."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Stop:
    """Whether the run is to stop. As a context, listens to the signals; only the main thread can.

    Args:
        run: the run directory.
        grace: seconds for what is in flight.
        tell: receives one line when the first signal comes.
    """

    def __init__(self, run: Store, grace: float, tell: Callable[[str], None]) -> None:
        self.run, self.grace, self.tell = run, grace, tell
        self.signum: int | None = None
        self._deadline = float("inf")
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self.run.remove_file(STOP_FILE)
        if threading.current_thread() is threading.main_thread():
            heeded = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
            self._before = {signum: signal.signal(signum, self._on_signal) for signum in heeded}
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @property
    def requested(self) -> bool:
        return self.signum is not None

    @property
    def overdue(self) -> bool:
        """Whether the grace time is over."""
        return time.monotonic() > self._deadline

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(128 + signum)
        self.signum, self._deadline = signum, time.monotonic() + self.grace
        # In a thread: a signal may come while this one is inside the very library that writes the file.
        threading.Thread(target=self.run.put, args=(STOP_FILE, b"stop\n"), daemon=True).start()
        self.tell(
            f"{signal.Signals(signum).name}: finishing what is in flight, up to {self.grace:g} s; once more to stop at once"
        )
