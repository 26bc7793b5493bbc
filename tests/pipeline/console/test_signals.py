"""Which signals stop a run, and what they do; tests/end_to_end stops a whole run."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from capfilt.pipeline.console import signals
from capfilt.pipeline.console.signals import SIGNALS, Interrupted, StopSignal
from capfilt.stages.shards.read import STOP_FILE
from capfilt.stages.storage.store import Store
from tests.killing import default_signals


@pytest.fixture
def run_dir(tmp_path):
    return Store(str(tmp_path))


@pytest.fixture(autouse=True)
def dispositions():
    with default_signals():
        yield


@pytest.mark.parametrize("signum", SIGNALS)
def test_signal_is_reported_once_and_writes_the_stop_file(run_dir, signum):
    lines = []
    before = signal.getsignal(signum)
    with StopSignal(run_dir, 30, lines.append) as stop:
        assert not stop.requested
        os.kill(os.getpid(), signum)
        assert stop.requested and stop.signum == signum and not stop.overdue
        while not run_dir.exists(STOP_FILE):
            pass
    assert lines == [
        f"{signum.name}: finishing the shards in flight, up to 30 s; send the signal again to exit at once"
    ]
    assert signal.getsignal(signum) is before


def test_second_signal_exits_at_once(run_dir, monkeypatch):
    codes = []
    monkeypatch.setattr(signals.os, "_exit", codes.append)
    with StopSignal(run_dir, 30, print):
        os.kill(os.getpid(), signal.SIGTERM)
        assert codes == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert codes == [128 + signal.SIGTERM]


SCRIPT = """
import os, signal
from capfilt.pipeline.console.signals import StopSignal
from capfilt.stages.storage.store import Store
with StopSignal(Store({folder!r}), 30, print, {resume!r}):
    os.kill(os.getpid(), signal.{first})
    os.kill(os.getpid(), signal.{second})
"""


@pytest.mark.parametrize(
    ("resume", "line"), [("capfilt run c.yaml", "; resume with: capfilt run c.yaml"), (None, "")]
)
@pytest.mark.parametrize(
    ("first", "second", "code"),
    [("SIGINT", "SIGINT", 130), ("SIGTERM", "SIGINT", 130), ("SIGHUP", "SIGTERM", 143)],
)
def test_second_signal_prints_how_to_resume(tmp_path, first, second, code, resume, line):
    script = SCRIPT.format(folder=str(tmp_path), resume=resume, first=first, second=second)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, f"\ninterrupted{line}\n")


def test_second_signal_exits_without_stderr(tmp_path):
    script = SCRIPT.format(folder=str(tmp_path), resume="x", first="SIGINT", second="SIGINT")
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script], capture_output=True)
    assert done.returncode == 130


def test_run_is_overdue_after_the_grace_time(run_dir, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with StopSignal(run_dir, 30, print) as stop:
        now[0] += 1000
        assert not stop.overdue  # no signal yet
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] += 30
        assert not stop.overdue
        now[0] += 0.1
        assert stop.overdue


def test_ignored_signal_stays_ignored(run_dir):
    """As SIGHUP is under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal(run_dir, 30, print) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stop_file_of_an_earlier_stop_is_removed(run_dir):
    run_dir.put(STOP_FILE, b"stop\n")
    with StopSignal(run_dir, 30, print):
        assert not run_dir.exists(STOP_FILE)


def test_other_threads_handle_no_signals(run_dir):
    before = signal.getsignal(signal.SIGTERM)

    def enter():
        with StopSignal(run_dir, 30, print):
            handlers.append(signal.getsignal(signal.SIGTERM))

    handlers = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_exit_code_of_an_interrupted_run(signum, code):
    assert Interrupted(signum).exit_code == code and str(Interrupted(signum)) == signum.name
