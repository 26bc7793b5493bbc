"""A stage in a subprocess: what kills the subprocess is survived, and its cause is reported."""

import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from capfilt.cluster.chain.isolation import ProcessDied, RowIsolator, StageBroken
from capfilt.cluster.chain.subprocess_stage import MAX_START_ATTEMPTS, SubprocessStage
from capfilt.cluster.chain.watchdog import Limits
from capfilt.pipeline.nodes.chain import ISOLATION
from tests.cluster.chain.poisoned import (
    AbortsOnBuild,
    DiesOnFirstBuilds,
    Poisoned,
    RaisesUnpicklable,
    ReportsEveryTenthOfASecond,
    Unbuildable,
    batch,
)

TIME, MEMORY = Limits(stall_seconds=5.0), Limits(memory=500_000_000)


def in_subprocess(make, limits=MEMORY):
    return SubprocessStage(pickle.dumps(make), limits)


def is_alive(pid):
    return os.path.exists(f"/proc/{pid}") and "Z" not in open(f"/proc/{pid}/stat").read().split()[2]


def test_results_are_those_of_the_stage_and_the_process_is_kept():
    rows = batch("one", "four", "")
    with in_subprocess(Poisoned) as stage:
        assert stage(rows).equals(Poisoned()(rows))
        pid = stage._process.pid
        assert stage(rows.slice(1, 1))["length"].to_pylist() == [4]
        assert stage._process.pid == pid != os.getpid()
    assert not is_alive(pid)


@pytest.mark.parametrize(
    ("kind", "limits", "cause"),
    [
        ("hang", TIME, r"no progress for 5 s \(cluster.stall_seconds\)"),
        (
            "leak",
            MEMORY,
            r"the worker process used \d\.\d GB of memory, the limit is 0.5 GB \(cluster.worker_memory_gb\)",
        ),
        ("kill", TIME, "the worker process was killed by SIGKILL"),
        ("abort", TIME, "the worker process exited with code 9"),
    ],
    ids=["hang", "leak", "kill", "abort"],
)
def test_a_death_is_survived_and_its_cause_reported(kind, limits, cause):
    with in_subprocess(Poisoned, limits) as stage:
        with pytest.raises(ProcessDied, match=f"^{cause}$") as death:
            stage(batch("a", kind))
        assert death.value.conclusive == (kind == "hang")
        assert stage(batch("a")).num_rows == 1


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [("raise", ValueError, "cannot process it"), ("exit", RuntimeError, "SystemExit: 3")],
)
def test_an_exception_of_the_stage_is_raised_in_the_parent(kind, error, text):
    with in_subprocess(Poisoned) as stage:
        stage(batch("a"))
        pid = stage._process.pid
        with pytest.raises(error, match=f"^{text}$"):
            stage(batch(kind))
        assert stage._process.pid == pid


def test_an_exception_that_cannot_be_unpickled_is_raised_by_its_text():
    with (
        in_subprocess(RaisesUnpicklable) as stage,
        pytest.raises(RuntimeError, match=r"^Unpicklable: strange \(5\)$"),
    ):
        stage(batch("a"))


def test_several_kinds_of_failure_in_one_shard():
    kinds = ["kill", "raise", "a", "segv", "exit", "a"]
    with in_subprocess(Poisoned) as stage:
        rows = RowIsolator("p", stage, ISOLATION).run(batch(*kinds)).to_pylist()
    assert [(r["status"], r["error_message"]) for r in rows] == [
        ("crashed", "p: the worker process was killed by SIGKILL, in two attempts with only this row"),
        ("internal", "ValueError: cannot process it"),
        ("success", None),
        ("crashed", "p: the worker process was killed by SIGSEGV, in two attempts with only this row"),
        ("internal", "RuntimeError: SystemExit: 3"),
        ("success", None),
    ]
    assert [r["length"] for r in rows] == [len(k) for k in kinds]


def test_a_stage_that_cannot_be_built_is_broken():
    with (
        pytest.raises(StageBroken, match=r"^the stage cannot be built: OSError: no such checkpoint$"),
        in_subprocess(Unbuildable) as stage,
    ):
        stage(batch("a"))
    with (
        pytest.raises(StageBroken, match="killed by SIGABRT while it started, 3 times"),
        in_subprocess(AbortsOnBuild) as stage,
    ):
        stage(batch("a"))


def test_a_process_that_dies_while_it_starts_is_started_again(tmp_path):
    deaths = MAX_START_ATTEMPTS - 1
    with in_subprocess(partial(DiesOnFirstBuilds, str(tmp_path), deaths)) as stage:
        assert stage(batch("a")).num_rows == 1
    assert len(list(tmp_path.iterdir())) == MAX_START_ATTEMPTS


def test_a_stage_that_reports_progress_may_take_longer_than_the_limit():
    with in_subprocess(ReportsEveryTenthOfASecond, Limits(stall_seconds=2.0)) as stage:
        assert stage(batch("a")).num_rows == 1


def test_an_early_exit_with_the_code_of_a_stall_is_no_stall(tmp_path):
    """The watchdog exits with code 1, as many other failures do; only the time tells them apart."""
    make = partial(DiesOnFirstBuilds, str(tmp_path), MAX_START_ATTEMPTS)
    with (
        in_subprocess(make, TIME) as stage,
        pytest.raises(StageBroken, match=r"^the worker process exited with code 1 while it started"),
    ):
        stage(batch("a"))


def test_the_child_dies_with_its_parent():
    """The parent is killed while the child is inside native code that Python cannot interrupt."""
    code = """if True:
        import pickle
        from capfilt.cluster.chain.subprocess_stage import SubprocessStage
        from capfilt.cluster.chain.watchdog import Limits
        from tests.cluster.chain.poisoned import Poisoned, batch
        stage = SubprocessStage(pickle.dumps(Poisoned), Limits())
        stage(batch("a"))
        print(stage._process.pid, flush=True)
        stage(batch("hang"))
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    )
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    assert is_alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 20
    while is_alive(child):
        assert time.monotonic() < deadline, "the child still runs"
        time.sleep(0.1)
