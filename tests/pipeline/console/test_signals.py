"""Which signals ask a run to stop, and what it does about them; tests/end_to_end has a whole run."""

import os
import signal

import pytest

from capfilt.pipeline.console.signals import SIGNALS, Stop
from capfilt.stages.shards.read import STOP_FILE
from capfilt.stages.storage.store import Store


@pytest.fixture
def run(tmp_path):
    return Store(str(tmp_path))


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_is_told_once_and_the_readers_are_told_by_a_file(run, signum):
    told = []
    before = signal.getsignal(signum)
    with Stop(run, 30, told.append) as stop:
        assert not stop.requested
        os.kill(os.getpid(), signum)
        assert stop.requested and stop.signum == signum and not stop.overdue
        while not run.exists(STOP_FILE):
            pass
    assert len(told) == 1 and told[0].startswith(f"{signum.name}: finishing what is in flight, up to 30 s")
    assert signal.getsignal(signum) is before


def test_nohup_is_respected(run):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop(run, 30, print) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_file_of_an_earlier_stop_is_none_of_ours(run):
    run.put(STOP_FILE, b"stop\n")
    with Stop(run, 30, print):
        assert not run.exists(STOP_FILE)
