"""Connect to a Ray cluster that runs already, or say in one line that none answers."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray._private.utils

from capfilt.cluster.config import ClusterError

ANSWER_SECONDS = 15.0
"""Time in which something must accept a connection at the address: a head that has just been started."""
ATTEMPTS_VARIABLE = "RAY_gcs_server_port_wait_time_s"
"""Ray's variable for the number of times that it tries to reach the head. Its default, 20 times 41 s, would
be a quarter of an hour of silence at a port that belongs to another program."""


def connect(address: str) -> None:
    """Connect this process to the cluster at the address.

    Args:
        address: `host:port`, or `auto`: the address of the environment or of the machine's own cluster.

    Raises:
        ClusterError: no cluster answers there; within a minute.
    """
    address = address or "auto"
    named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    key = "RAY_ADDRESS" if named != address else "cluster.address"
    try:
        _wait_for_listener(named)
        with discarded_stderr(), signal_handlers_kept(), _one_attempt():
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:  # Ray raises plain exceptions, too
        ray.shutdown()
        raise ClusterError(
            f"{key}: no Ray cluster answers at {named!r} ({first_line(error)}); "
            "start one with `ray start --head`, or set cluster.address=local"
        ) from error


def _wait_for_listener(address: str) -> None:
    """Wait until something accepts connections at `host:port`; an address of another form is left to Ray.

    Raises:
        OSError: nothing does, in `ANSWER_SECONDS`; or the name of the host is unknown.
    """
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdecimal():
        return
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1)


@contextmanager
def _one_attempt() -> Iterator[None]:
    """Let Ray try once to reach the head, unless the user has chosen otherwise."""
    if ATTEMPTS_VARIABLE in os.environ:
        yield
        return
    os.environ[ATTEMPTS_VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(ATTEMPTS_VARIABLE, None)


@contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM that the program has. Ray has no setting for that.

    Its Python code would set one that ends the process with a trace before what is in progress is finished.
    Its C++ core sets one beneath Python's that prints a trace and calls Python's; setting Python's again
    removes it.
    """
    before = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = before
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


@contextmanager
def discarded_stderr() -> Iterator[None]:
    """Redirect file descriptor 2 to /dev/null: Ray's C++ core always prints there when it starts or connects.
    Errors are raised as exceptions, so nothing is lost."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "w") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its name if it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
