"""One owner per run directory: a lease with a heartbeat, which a dead owner loses.

The lease is a numbered file, created exclusively; taking over a lapsed one means creating the next number, so that
of several who try one wins, on disks and on object stores alike. Nobody's clock is compared with anybody else's: an
owner is alive while its heartbeat changes. What a late owner might still write cannot harm: commit records are
created exclusively as well (`stages.shards.write`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from capfilt.stages.storage.store import Store, StoreError, encode_json

FOLDER = "lease"
BEAT_SECONDS = 5.0
LAPSE_SECONDS = 60.0
"""Without a heartbeat for so long an owner counts as dead, unless it can be seen to be dead at once."""


class LeaseError(ValueError):
    """Somebody else is at work in the run directory, or has taken it over."""


class Lease:
    """The right to write in a run directory. Made by `hold`."""

    def __init__(self, run: Store, number: int, owner: dict[str, Any]) -> None:
        self.run, self.number = run, number
        self.lost: str | None = None
        """What became of the lease once it is another's or gone; whoever writes must stop."""
        self._owner = owner
        self._count = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="capfilt-lease")
        self._thread.start()

    def release(self) -> None:
        """Give the lease back."""
        self._ended.set()
        self._thread.join(timeout=2 * BEAT_SECONDS)  # a beat to a store that is away may take minutes
        with suppress(StoreError, OSError):  # the store is away, or read-only: the lease lapses
            if self.lost is None and self._loss() is None:
                self.run.remove_file(_name(self.number))

    def check(self) -> None:
        """Raise LeaseError once the lease is lost."""
        if self.lost is not None:
            raise LeaseError(
                f"run.dir {self.run.url}: {self.lost}; this run stops here, and what it had committed stays"
            )

    def confirm(self) -> None:
        """As `check`, but asks the store now: for what takes something away, which an owner that wakes up after
        another has taken over must not do.

        Raises:
            LeaseError: the lease is lost.
            StoreError: the store cannot be asked.
        """
        if self.lost is None:
            self.lost = self._loss()
        self.check()

    def _loss(self) -> str | None:
        """What became of the lease, None while it is ours. A number alone says nothing: they begin again at 1 when
        an owner that has taken over has ended, and we may have slept through that."""
        newest = _newest(self.run)
        owner = None if newest is None else _read(self.run, newest)
        if owner is None:
            return "its lease is gone: another run has taken it over and ended, or somebody has removed it"
        if owner.get("token") == self._owner["token"]:
            return None
        silence = f"because this one gave no sign for {LAPSE_SECONDS:.0f} s"
        return f"{_describe(owner)}, has taken the run over, {silence}"

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self.lost = self._loss()
                if self.lost is not None:
                    return
                self._count += 1
                self.run.put(_name(self.number), _content(self._owner, self._count))
            except (
                Exception
            ):  # the store is away for a moment; whoever takes over meanwhile is seen afterwards
                continue


@contextmanager
def hold(run: Store, tell: Callable[[str], None]) -> Iterator[Lease]:
    """The lease of a run directory for the body's duration.

    Args:
        run: the run directory.
        tell: receives a line when there is something to wait for.

    Raises:
        LeaseError: another driver is at work there.
    """
    lease = acquire(run, tell)
    try:
        yield lease
    finally:
        lease.release()


def acquire(run: Store, tell: Callable[[str], None]) -> Lease:
    """Take the lease, after waiting for a silent owner's to lapse.

    Raises:
        LeaseError: the owner is alive.
    """
    while True:
        newest = _newest(run)
        if newest is not None:
            _wait_until_lapsed(run, newest, tell)
        number = (newest or 0) + 1
        owner = identity()
        if run.create(_name(number), _content(owner, 0)):
            if newest is not None:
                run.remove_file(_name(newest))
            return Lease(run, number, owner)


def identity() -> dict[str, Any]:
    """Who this process is, such that it can be told from a later one with the same number on the same machine."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "process": _process_start(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex,  # tells two leases of one process apart
    }


def _wait_until_lapsed(run: Store, number: int, tell: Callable[[str], None]) -> None:
    first = _read(run, number)
    if first is None or _is_dead(first):
        return
    told, deadline = False, time.monotonic() + LAPSE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, BEAT_SECONDS / 5))
        now = _read(run, number)
        if now is None:
            return
        if now != first:
            raise LeaseError(
                f"run.dir {run.url}: another run is at work there ({_describe(now)}); wait until it ends, stop it, "
                "or use another run directory (--set run.dir=...)"
            )
        if not told and time.monotonic() > deadline - LAPSE_SECONDS + 1.5 * BEAT_SECONDS:
            told = True
            tell(f"run.dir {run.url} is held by {_describe(first)}, which gives no sign; waiting for its lease "
                 f"to lapse ({LAPSE_SECONDS:.0f} s)")  # fmt: skip


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner is seen to be dead: it ran among the processes we see, and is not there any more."""
    machine = _machine()
    if machine is None or owner.get("machine") != machine:
        return False
    return _process_start(int(owner["pid"])) != owner.get("process")


def _machine() -> str | None:
    """This boot of this machine, and which of its processes can be seen; None where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _process_start(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _content(who: dict[str, Any], count: int) -> bytes:
    return encode_json({**who, "beats": count})


def _name(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _newest(run: Store) -> int | None:
    numbers = [int(name[:-5]) for name in run.list(FOLDER, suffix=".json") if name[:-5].isdigit()]
    return max(numbers, default=None)


def _read(run: Store, number: int) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = run.read_json(_name(number))
    except FileNotFoundError:
        return None
    return content


def _describe(owner: dict[str, Any]) -> str:
    return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
