"""Stopping a run by SIGINT, SIGTERM or SIGHUP.

After the first signal, shards in flight are finished and committed, then the program exits; a second signal
prints how to resume and exits at once. The reading stage learns of the stop from a file in the run directory,
because its processes may run on other machines: it returns no more rows, and the shards in flight drain
through the chain.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from capfilt.stages.storage.layout import STOP_FILE
from capfilt.stages.storage.store import Store

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a run. One that the process ignores stays ignored, as SIGHUP under `nohup`."""
SHOW_CURSOR = b"\x1b[?25h"
"""Control sequence of terminals."""


class NodeStopped(Exception):
    """A node ended early because the run is stopping."""


class Interrupted(Exception):
    """The run was stopped by a signal.

    Attributes:
        exit_code: 128 + number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopSignal:
    """Whether the run has been asked to stop. As a context manager it handles the signals, in the main thread
    only.

    Args:
        run_dir: the run directory, where the file for the reading stages is written.
        grace: seconds in which shards in flight may finish.
        notify: called with one line at the first signal.
        resume: the command that is printed at the second signal; None prints none.

    Attributes:
        signum: the signal that was received, None before.
    """

    def __init__(
        self, run_dir: Store, grace: float, notify: Callable[[str], None], resume: str | None = None
    ) -> None:
        self.run_dir, self.grace, self.notify, self.resume = run_dir, grace, notify, resume
        self.signum: int | None = None
        self._deadline = float("inf")
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self.run_dir.remove_file(STOP_FILE)
        if threading.current_thread() is threading.main_thread():
            handled = [each for each in SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
            self._previous_handlers = {each: signal.signal(each, self._on_signal) for each in handled}
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._previous_handlers.items():
            signal.signal(signum, handler)

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.signum is not None

    @property
    def overdue(self) -> bool:
        """Whether the grace time is over."""
        return time.monotonic() > self._deadline

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            self._print_farewell()
            os._exit(128 + signum)
        self.signum, self._deadline = signum, time.monotonic() + self.grace
        # In a thread: the signal may interrupt this thread inside the library that writes the file.
        threading.Thread(target=self.run_dir.put, args=(STOP_FILE, b"stop\n"), daemon=True).start()
        self.notify(
            f"{signal.Signals(signum).name}: finishing the shards in flight, up to {self.grace:g} s; "
            "send the signal again to exit at once"
        )

    def _print_farewell(self) -> None:
        """Print how to resume, and show the cursor that a live table has hidden. Writes to the descriptors,
        because the signal may have interrupted a write of the same stream."""
        hint = f"; resume with: {self.resume}" if self.resume else ""
        with suppress(OSError):
            if os.isatty(1):
                os.write(1, SHOW_CURSOR)
            os.write(2, f"\ninterrupted{hint}\n".encode(errors="backslashreplace"))
