"""One owner per run directory: a lease with a heartbeat, which lapses when its owner dies.

The lease is a numbered file that is created exclusively. A process that takes over a lapsed lease creates the
next number, so that exactly one of several competitors wins, on disks and on object stores. Clocks of
different machines are never compared: an owner is alive while its heartbeat changes. Late writes of a former
owner do no harm, because commit records are created exclusively too (`stages.shards.commit`).
"""

from __future__ import annotations

import json
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

from capfilt.stages.errors import UserError
from capfilt.stages.storage.layout import LEASE, RECORD_SUFFIX, lease_file, shard_of_record
from capfilt.stages.storage.store import DECODE_ERRORS, Store, StoreError, encode_json

BEAT_SECONDS = 5.0
"""Time between two heartbeats."""
LAPSE_SECONDS = 60.0
"""An owner that gives no heartbeat for this time counts as dead, unless its death can be observed sooner."""
OWNER_KEYS = {"host", "pid", "since"}
"""Keys without which a lease file is damaged. A damaged file is no heartbeat: unless its owner writes it
again, the lease lapses."""
SILENT_BEATS = 1.5
"""After this many missed heartbeats the user is told that the lease of another process is waited for."""


class LeaseError(UserError):
    """Another process works in the run directory, or has taken it over."""


class Lease:
    """The right to write in a run directory. Made by `hold`."""

    def __init__(self, store: Store, number: int, owner: dict[str, Any]) -> None:
        self.store, self.number = store, number
        self.lost: str | None = None
        """Why the lease is lost, None while it is held. After a loss nothing may be written."""
        self._owner = owner
        self._count = 0
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="capfilt-lease")
        self._thread.start()

    def release(self) -> None:
        """End the lease, so that the next run does not have to wait."""
        self._released.set()
        self._thread.join(timeout=2 * BEAT_SECONDS)  # a heartbeat to an unreachable store may take minutes
        with suppress(StoreError, OSError):  # the store is unreachable or read-only: the lease will lapse
            if self.lost is None and self._find_loss() is None:
                self.store.remove_file(lease_file(self.number))

    def check(self) -> None:
        """Check that the last heartbeat found the lease in place. Sends no request.

        Raises:
            LeaseError: the lease is lost.
        """
        if self.lost is not None:
            raise LeaseError(
                f"run.dir {self.store.url}: {self.lost}; this run stops here, its committed work stays"
            )

    def confirm(self) -> None:
        """Check with the store that the lease is in place. Call this before every removal: a process that was
        suspended while another one took over must not remove anything.

        Raises:
            LeaseError: the lease is lost.
            StoreError: the store cannot be reached.
        """
        if self.lost is None:
            self.lost = self._find_loss()
        self.check()

    def _find_loss(self) -> str | None:
        """Why the lease is lost, None while it is held.

        The number of the file does not suffice: after a process that took over has ended, numbers start at 1
        again, and this process may have been suspended all that time.
        """
        newest = _newest(self.store)
        owner = None if newest is None else _read(self.store, newest)
        if owner == {} and newest == self.number:
            return None  # its file is damaged; the next heartbeat writes it again
        if owner is None:
            return "its lease is gone: another run has taken it over and ended, or its file was removed"
        if owner.get("token") == self._owner["token"]:
            return None
        reason = f"because this run gave no heartbeat for {LAPSE_SECONDS:.0f} s"
        return f"{_describe(owner)}, has taken the run directory over, {reason}"

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                self.lost = self._find_loss()
                if self.lost is not None:
                    return
                self._count += 1
                self.store.put(lease_file(self.number), _content(self._owner, self._count))
            except Exception:
                continue  # the store is unreachable for a moment; a later heartbeat notices a takeover


@contextmanager
def hold(store: Store, notify: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the lease of a run directory while the body runs.

    Args:
        store: the run directory.
        notify: receives one line if the lease of another process has to be waited for.

    Raises:
        LeaseError: another process works in the directory.
    """
    lease = acquire(store, notify)
    try:
        yield lease
    finally:
        lease.release()


def acquire(store: Store, notify: Callable[[str], None]) -> Lease:
    """Take the lease of a run directory. If its owner gives no heartbeat, wait until the lease lapses.

    Args:
        notify: receives one line if the lease has to be waited for.

    Raises:
        LeaseError: another process owns the lease and is alive.
    """
    while True:
        newest = _newest(store)
        if newest is not None:
            _wait_until_lapsed(store, newest, notify)
        number = (newest or 0) + 1
        owner = describe_this_process()
        if store.create(lease_file(number), _content(owner, 0)):
            if newest is not None:
                store.remove_file(lease_file(newest))
            return Lease(store, number, owner)


def describe_this_process() -> dict[str, Any]:
    """What a lease file says of its owner. Two processes with the same number on one machine differ in it."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "process": _process_start(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex,  # distinguishes two leases of one process
    }


def _wait_until_lapsed(store: Store, number: int, notify: Callable[[str], None]) -> None:
    first = _read(store, number)
    if first is None or _is_dead(first):
        return
    notified, start = False, time.monotonic()
    while time.monotonic() - start < LAPSE_SECONDS:
        time.sleep(min(1.0, BEAT_SECONDS / 5))
        now = _read(store, number)
        if now is None:
            return
        if now != first:
            raise LeaseError(
                f"run.dir {store.url}: another run is at work there ({_describe(now)}); wait until it ends, "
                "stop it, or use another run directory (--set run.dir=...)"
            )
        if not notified and time.monotonic() - start > SILENT_BEATS * BEAT_SECONDS:
            notified = True
            notify(
                f"run.dir {store.url} is held by {_describe(first)}, which gives no heartbeat; "
                f"waiting for its lease to lapse ({LAPSE_SECONDS:.0f} s)"
            )


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner is a process of this machine that does not exist any more."""
    machine = _machine()
    if machine is None or owner.get("machine") != machine:
        return False
    return _process_start(owner["pid"]) != owner.get("process")


def _machine() -> str | None:
    """Identifies this boot of this machine and its process namespace; None where these are unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _process_start(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot; None if it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _content(owner: dict[str, Any], count: int) -> bytes:
    return encode_json({**owner, "beats": count})


def _newest(store: Store) -> int | None:
    numbers = map(shard_of_record, store.list(LEASE, suffix=RECORD_SUFFIX))
    return max((number for number in numbers if number is not None), default=None)


def _read(store: Store, number: int) -> dict[str, Any] | None:
    """What the lease says of its owner, None if there is no such lease, {} if its file is damaged."""
    data = store.find(lease_file(number))
    if data is None:
        return None
    try:
        content = json.loads(data)
    except DECODE_ERRORS:
        return {}
    is_complete = isinstance(content, dict) and set(content) >= OWNER_KEYS
    return content if is_complete and isinstance(content["pid"], int) else {}


def read_newest(store: Store) -> tuple[int, dict[str, Any], bool] | None:
    """The newest lease of a run directory: its number, what it says of its owner ({} if its file is damaged),
    and whether the owner is known to be dead; None if there is none."""
    newest = _newest(store)
    owner = None if newest is None else _read(store, newest)
    if newest is None or owner is None:
        return None
    return newest, owner, bool(owner) and _is_dead(owner)


def _describe(owner: dict[str, Any]) -> str:
    if not owner:
        return "an unknown process, whose lease file is damaged"
    return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
