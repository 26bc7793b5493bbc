"""Run a stage in a subprocess, so that a row that kills the process does not kill the worker.

Parent and child communicate through a pipe: the parent sends the stage's maker and receives "ready", then
sends tables and receives results. This module does not import Ray: a child starts as fast as its stage does.
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

from capfilt.cluster.chain.isolation import ProcessDied, StageBroken
from capfilt.cluster.chain.watchdog import MEMORY_CHECK_INTERVAL_S, Limits, Watchdog

MAX_START_ATTEMPTS = 3
"""Attempts to start a child. A child that dies before it has received rows does not die because of a row."""
EXIT_TIMEOUT_S = 1.0
"""Seconds given to a dying child to exit by itself, so that its exit code tells the cause."""
STALL_EXIT_CODE = 1
"""Exit code of `faulthandler.dump_traceback_later(exit=True)`."""
PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl(2)."""


class SubprocessStage:
    """Called like the stage itself; the child process is started on demand and again after each death.

    Args:
        make: pickled maker of the stage.
        limits: limits of the child.

    Raises (when called):
        ProcessDied: the child died while it processed the rows.
        StageBroken: the stage cannot be built, or the child dies while it starts.
        Exception: whatever the stage raised.
    """

    def __init__(self, make: bytes, limits: Limits) -> None:
        self.make, self.limits = make, limits
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._reap(self._process)

    def __call__(self, batch: pa.Table) -> pa.Table:
        process = self._ensure_started()
        answer = self._request(process, _to_ipc_stream(batch))
        if isinstance(answer, Exception):
            raise answer
        return pa.ipc.open_stream(answer).read_all()

    def _ensure_started(self) -> subprocess.Popen[bytes]:
        """The child, with its stage built."""
        if self._process is not None:
            return self._process
        for attempt in range(MAX_START_ATTEMPTS):
            self._process = process = self._spawn()
            try:
                answer = self._request(process, (self.make, self.limits.stall_seconds))
            except ProcessDied as death:
                if attempt == MAX_START_ATTEMPTS - 1:
                    raise StageBroken(f"{death} while it started, {MAX_START_ATTEMPTS} times") from death
                continue
            if isinstance(answer, Exception):
                raise StageBroken(f"the stage cannot be built: {type(answer).__name__}: {answer}") from answer
            return process
        raise AssertionError("the loop above returns or raises")

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._pipe, child_end = Pipe()
        with child_end:
            fd = child_end.fileno()
            return subprocess.Popen(
                [sys.executable, "-m", "capfilt.cluster.chain.subprocess_stage", str(fd), str(os.getpid())],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    def _request(self, process: subprocess.Popen[bytes], message: Any) -> Any:
        """Send a message to the child and wait for its answer, checking its memory meanwhile.

        Raises:
            ProcessDied: the child died before it answered.
        """
        start = time.monotonic()
        try:
            self._pipe.send(message)
            while not self._pipe.poll(MEMORY_CHECK_INTERVAL_S):
                if (cause := self.limits.check_memory(process.pid)) is not None:
                    process.kill()
                    self._reap(process)
                    raise ProcessDied(f"the worker process {cause}")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            code = self._reap(process)
            stall = self.limits.stall_seconds
            if code == STALL_EXIT_CODE and stall is not None and time.monotonic() - start >= stall:
                cause = f"no progress for {stall:g} s (cluster.stall_seconds)"
                raise ProcessDied(cause, conclusive=True) from error
            raise ProcessDied(f"the worker process {_describe_exit(code)}") from error

    def _reap(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for the child to exit, kill it if it does not, and return its exit code."""
        self._process = None
        self._pipe.close()
        try:
            return process.wait(timeout=EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    known = {signum.value for signum in signal.Signals}
    return f"was killed by {signal.Signals(-code).name if -code in known else f'signal {-code}'}"


def _to_ipc_stream(batch: pa.Table) -> bytes:
    """The table as an Arrow stream. A pickle of a slice would hold the whole table."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_table(batch)
    return sink.getvalue()


def _to_picklable(error: Exception) -> Exception:
    """The error itself, or a RuntimeError with its text if it cannot be unpickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def serve(pipe: Connection) -> None:
    """Main loop of the child: build the stage, then process tables until the parent closes the pipe."""
    make, stall_seconds = pipe.recv()
    # The parent watches the memory, so the callback for it is never called here.
    watchdog = Watchdog(Limits(stall_seconds=stall_seconds), on_limit_exceeded=print)
    try:
        stage = pickle.loads(make)()
    except Exception as error:
        pipe.send(_to_picklable(error))
        return
    watchdog.observe(stage)
    pipe.send("ready")
    while True:
        try:
            batch = pa.ipc.open_stream(pipe.recv()).read_all()
        except EOFError:
            return
        try:
            with watchdog:
                answer: Any = _to_ipc_stream(stage(batch))
        except SystemExit as error:
            answer = RuntimeError(f"SystemExit: {error.code}")
        except Exception as error:
            answer = _to_picklable(error)
        pipe.send(answer)


def _exit_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the parent dies, even inside native code. On systems other than
    Linux the child exits once it finds the pipe closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the parent process has exited")


if __name__ == "__main__":
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the first death has left a core dump; one is enough
    _exit_with_parent(int(sys.argv[2]))
    os.set_inheritable(int(sys.argv[1]), False)
    serve(Connection(int(sys.argv[1])))
