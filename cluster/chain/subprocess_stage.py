"""A stage in a process of its own: what a row does to it is survived, and seen.

Parent and child talk through a pipe: first the stage's maker goes down and "ready" comes back, then tables and
results. This module imports no Ray: a child starts as fast as its stage does.
"""

from __future__ import annotations

import ctypes
import faulthandler
import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

import pyarrow as pa

from capfilt.cluster.chain.isolation import Broken, ProcessDied
from capfilt.cluster.chain.watchdog import MEMORY_LOOKS_S, Limits, Watchdog, watch_progress

STARTS = 3
"""Times that a child may die before it has a row: whatever kills it then, no row is guilty."""


class SubprocessStage:
    """Called like the stage itself; its process is started again after every death.

    Args:
        make: pickled maker of the stage.
        limits: of the child.

    Raises (when called):
        ProcessDied: the child died with the rows in hand.
        Broken: it dies before it has any.
        Exception: what the stage raised.
    """

    def __init__(self, make: bytes, limits: Limits) -> None:
        self.make, self.limits = make, limits
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._end(self._process)

    def __call__(self, batch: pa.Table) -> pa.Table:
        process = self._started()
        answer = self._ask(process, _packed(batch))
        if isinstance(answer, Exception):
            raise answer
        return pa.ipc.open_stream(answer).read_all()

    def _started(self) -> subprocess.Popen[bytes]:
        """The child, with its stage built."""
        if self._process is not None:
            return self._process
        for attempt in range(STARTS):
            self._process = process = self._spawn()
            try:
                answer = self._ask(process, (self.make, self.limits.stall_seconds))
            except ProcessDied as death:
                if attempt == STARTS - 1:
                    raise Broken(f"{death} while it started, {STARTS} times") from death
                continue
            if isinstance(answer, Exception):
                raise Broken(f"cannot be built: {type(answer).__name__}: {answer}") from answer
            return process
        raise AssertionError("the loop above returns or raises")

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._pipe, end = Pipe()
        with end:
            fd = end.fileno()
            return subprocess.Popen(
                [sys.executable, "-m", "capfilt.cluster.chain.subprocess_stage", str(fd), str(os.getpid())],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def _ask(self, process: subprocess.Popen[bytes], message: Any) -> Any:
        """The child's answer.

        Raises:
            ProcessDied: it died instead.
        """
        start = time.monotonic()
        try:
            self._pipe.send(message)
            while not self._pipe.poll(MEMORY_LOOKS_S):
                if (cause := self.limits.too_much_memory(process.pid)) is not None:
                    process.kill()
                    self._end(process)
                    raise ProcessDied(f"its process {cause}")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            code = self._end(process)
            stall = self.limits.stall_seconds
            if code == 1 and stall is not None and time.monotonic() - start >= stall:
                raise ProcessDied(f"no progress for {stall:g} s", certain=True) from error
            raise ProcessDied(f"its process died of {_ending(code)}") from error

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        """Exit code of the child, which is no more."""
        self._process = None
        self._pipe.close()
        try:
            # One that is dying is given time to say of what; one that is not is killed.
            return process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"


def _packed(batch: pa.Table) -> bytes:
    """As an Arrow stream, which has the rows of a slice alone; pickled, it could carry the whole table."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_table(batch)
    return sink.getvalue()


def _portable(error: Exception) -> Exception:
    """An error that can be sent: some cannot be built again from their arguments."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def serve(pipe: Connection) -> None:
    """The child: build the stage, then answer tables until the parent hangs up."""
    make, stall_seconds = pipe.recv()
    guard = Watchdog(Limits(stall_seconds=stall_seconds), last_words=print)
    try:
        stage = pickle.loads(make)()
    except Exception as error:
        pipe.send(_portable(error))
        return
    watch_progress(stage, guard.beat)
    pipe.send("ready")
    while True:
        try:
            batch = pa.ipc.open_stream(pipe.recv()).read_all()
        except EOFError:
            return
        try:
            with guard:
                answer: Any = _packed(stage(batch))
        except SystemExit as error:
            answer = RuntimeError(f"SystemExit: {error.code}")
        except Exception as error:
            answer = _portable(error)
        pipe.send(answer)


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, in whatever loop this process is then (Linux; elsewhere the pipe's end tells)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")


if __name__ == "__main__":
    faulthandler.enable()
    resource.setrlimit(
        resource.RLIMIT_CORE, (0, 0)
    )  # the first death left its core; nobody needs five of them
    _die_with(int(sys.argv[2]))
    os.set_inheritable(int(sys.argv[1]), False)
    serve(Connection(int(sys.argv[1])))
