"""The watchdog terminates a process that exceeds a limit, and no other."""

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capfilt.cluster.chain import watchdog as module
from capfilt.cluster.chain.watchdog import Limits, Watchdog, private_memory

SIZE = 200_000_000


def run_watched(body, limits):
    """(exit code, output) of a process that runs `body` under a watchdog."""
    code = f"""if True:
        import time
        from capfilt.cluster.chain.watchdog import Limits, Watchdog
        from tests.cluster.chain.poisoned import poison
        with Watchdog({limits!r}, lambda cause: print("exceeded:", cause, flush=True)) as watchdog:
            {body}
        print("continued", flush=True)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    return done.returncode, done.stdout.strip()


def test_a_process_that_hangs_is_terminated():
    assert run_watched("poison('hang')", Limits(stall_seconds=5.0)) == (1, "")


def test_a_process_that_leaks_is_terminated_and_the_cause_reported():
    code, output = run_watched("poison('leak')", Limits(memory=500_000_000))
    assert code == 77 and output.startswith("exceeded: used ")


def test_progress_restarts_the_time_limit():
    body = "[(time.sleep(0.5), watchdog.record_progress()) for _ in range(9)]"
    assert run_watched(body, Limits(stall_seconds=3.0)) == (0, "continued")


def test_nothing_is_terminated_once_the_block_is_left():
    limits = Limits(stall_seconds=0.2, memory=private_memory(os.getpid()) * 2)
    with Watchdog(limits, pytest.fail) as watchdog:
        pass
    watchdog.record_progress()
    time.sleep(0.6)


class Timer:
    """Records when the stall timer is armed, by a clock that the test sets."""

    def __init__(self, monkeypatch):
        self.now, self.armed = 100.0, []
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(
            module.faulthandler,
            "dump_traceback_later",
            lambda seconds, **_: self.armed.append((self.now, seconds)),
        )
        monkeypatch.setattr(module.faulthandler, "cancel_dump_traceback_later", lambda: None)


@pytest.mark.parametrize(("limit", "pause"), [(900.0, 1.0), (4.0, 1.0), (2.0, 0.5)])
def test_the_timer_is_reset_at_most_once_a_second_or_four_times_within_the_limit(monkeypatch, limit, pause):
    timer = Timer(monkeypatch)
    with Watchdog(Limits(stall_seconds=limit), pytest.fail) as watchdog:
        for elapsed in (0.0, pause, pause + 0.01, 2 * pause + 0.01, 2 * pause + 0.02):
            timer.now = 100.0 + elapsed
            watchdog.record_progress()
    assert timer.armed == [(100.0, limit), (100.0 + pause + 0.01, limit), (100.0 + 2 * pause + 0.02, limit)]


def test_without_a_limit_no_timer_is_armed(monkeypatch):
    timer = Timer(monkeypatch)
    with Watchdog(Limits(), pytest.fail) as watchdog:
        timer.now += 1000
        watchdog.record_progress()
    assert timer.armed == []


def test_a_stage_that_reports_progress_resets_the_timer(monkeypatch):
    class Stage:
        def on_progress(self, callback):
            self.callback = callback

    timer, stage = Timer(monkeypatch), Stage()
    watchdog = Watchdog(Limits(stall_seconds=60.0), pytest.fail)
    watchdog.observe(stage)
    watchdog.observe(object())  # has nothing to report
    with watchdog:
        timer.now = 110.0
        stage.callback()
    assert timer.armed == [(100.0, 60.0), (110.0, 60.0)]


def test_memory_is_checked_against_the_limit_itself(monkeypatch):
    monkeypatch.setattr(module, "private_memory", lambda pid: 2_000_000_000)
    assert Limits().check_memory(1) is None
    assert Limits(memory=2_000_000_000).check_memory(1) is None
    assert Limits(memory=1_999_999_999).check_memory(1) == (
        "used 2.0 GB of memory, the limit is 2.0 GB (cluster.worker_memory_gb)"
    )


def test_private_memory_counts_what_the_process_allocates():
    before = private_memory(os.getpid())
    held = b"x" * SIZE
    assert 0.95 * SIZE < private_memory(os.getpid()) - before < 1.5 * SIZE and len(held)


def test_private_memory_does_not_count_shared_memory():
    """Ray maps its object store into every worker."""
    before = private_memory(os.getpid())
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_SHARED) as shared:
        shared.write(b"x" * SIZE)
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert resident > SIZE
        assert private_memory(os.getpid()) - before < 0.5 * SIZE


def test_a_process_that_has_exited_uses_no_memory():
    assert private_memory(2**22 + 1) == 0
