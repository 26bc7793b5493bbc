"""A stage in a process apart: what kills that one is survived, and said."""

import os
import pickle
import subprocess
import sys
import time

import pytest

from capfilt.cluster.chain.engine import StageRunner, Step
from capfilt.cluster.chain.isolation import Broken, ProcessDied, Search
from capfilt.cluster.chain.subprocess_stage import SubprocessStage
from capfilt.cluster.chain.watchdog import Limits, Watchdog, private_memory
from capfilt.pipeline.nodes.chain import ISOLATION
from tests.cluster.chain.poisoned import Beats, DiesAtOnce, Poisoned, Unbuildable, batch

TIME, MEMORY = Limits(stall_seconds=5.0), Limits(memory=500_000_000)


def apart(make, limits=MEMORY):
    return SubprocessStage(pickle.dumps(make), limits)


def alive(pid):
    return os.path.exists(f"/proc/{pid}") and "Z" not in open(f"/proc/{pid}/stat").read().split()[2]


def test_gives_what_the_stage_gives_in_one_process():
    rows = batch("one", "four", "")
    with apart(Poisoned) as stage:
        assert stage(rows).equals(Poisoned()(rows))
        pid = stage._process.pid
        assert stage(rows.slice(1, 1))["length"].to_pylist() == [4]
        assert stage._process.pid == pid != os.getpid()
    assert not alive(pid)


@pytest.mark.parametrize(
    ("kind", "limits", "cause"),
    [
        ("hang", TIME, "no progress for 5 s"),
        ("leak", MEMORY, r"its process took \d\.\d GB of memory, 0.5 GB are allowed"),
    ],
    ids=["hang", "leak"],
)
def test_a_death_is_survived_and_its_cause_said(kind, limits, cause):
    with apart(Poisoned, limits) as stage:
        with pytest.raises(ProcessDied, match=f"^{cause}$") as death:
            stage(batch("a", kind))
        assert death.value.certain == (kind == "hang")
        assert stage(batch("a")).num_rows == 1


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [("raise", ValueError, "cannot stand it"), ("exit", RuntimeError, "SystemExit: 3")],
)
def test_what_the_stage_raises_is_raised_here(kind, error, text):
    with apart(Poisoned) as stage:
        stage(batch("a"))
        pid = stage._process.pid
        with pytest.raises(error, match=f"^{text}$"):
            stage(batch(kind))
        assert stage._process.pid == pid


def test_several_kinds_in_one_shard():
    kinds = ["kill", "raise", "a", "segv", "exit", "a"]
    with apart(Poisoned) as stage:
        rows = Search("p", stage, ISOLATION).run(batch(*kinds)).to_pylist()
    assert [(r["status"], r["error_message"]) for r in rows] == [
        ("crashed", "p: its process died of SIGKILL, twice with this row alone"),
        ("internal", "ValueError: cannot stand it"),
        ("success", None),
        ("crashed", "p: its process died of SIGSEGV, twice with this row alone"),
        ("internal", "RuntimeError: SystemExit: 3"),
        ("success", None),
    ]
    assert [r["length"] for r in rows] == [len(k) for k in kinds]


def test_a_stage_that_cannot_be_built_is_broken_and_no_row_is_blamed():
    with (
        pytest.raises(Broken, match="cannot be built: OSError: no such checkpoint"),
        apart(Unbuildable) as stage,
    ):
        stage(batch("a"))
    with pytest.raises(Broken, match="died of SIGABRT while it started, 3 times"), apart(DiesAtOnce) as stage:
        stage(batch("a"))


def test_a_stage_that_gets_further_may_take_longer_than_the_limit():
    with apart(Beats, Limits(stall_seconds=2.0)) as stage:
        start = time.monotonic()
        assert stage(batch("a")).num_rows == 1
        assert time.monotonic() - start > 2.5


def test_the_child_dies_with_its_parent():
    """The parent is killed while its child is in a loop that nothing of Python's can end."""
    code = """if True:
        import pickle, threading, time
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
    assert alive(child)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


# ---- the same limits inside the process of a stage


def guarded(body, limits):
    """How a process ends that runs `body` under a guard: (exit code, output)."""
    code = f"""if True:
        from capfilt.cluster.chain.watchdog import Watchdog, Limits
        from tests.cluster.chain.poisoned import poison
        with Watchdog({limits!r}, lambda cause: print("last words:", cause, flush=True)) as guard:
            {body}
        print("went on", flush=True)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    return done.returncode, done.stdout.strip()


def test_a_guard_ends_a_process_that_hangs_or_takes_too_much():
    assert guarded("poison('hang')", TIME) == (1, "")
    code, output = guarded("poison('leak')", MEMORY)
    assert code == 77 and output.startswith("last words: took ")


def test_a_guard_ends_nothing_once_it_is_left():
    with Watchdog(Limits(stall_seconds=0.2, memory=private_memory(os.getpid()) * 2), pytest.fail) as guard:
        pass
    guard.beat()
    time.sleep(0.6)


def test_memory_counts_what_is_private():
    before = private_memory(os.getpid())
    held = b"x" * 200_000_000
    assert 190e6 < private_memory(os.getpid()) - before < 300e6 and len(held)
    assert private_memory(2**22 + 1) == 0


# ---- the worker's part


class Reports:
    """A board that says how many processes died of a shard before."""

    def __init__(self, died):
        self.died, self.told = died, []

    def begin(self, stage, shard):
        self.told.append(("begin", stage, shard))
        return self.died

    def end(self, stage, shard):
        self.told.append(("end", stage, shard))

    def fail(self, cause, *, shard=None, wait=False):
        self.told.append(("fail", cause))


def worker(make, died):
    reports = Reports(died)
    step = Step(name="p", make=make, isolation=ISOLATION, limits=MEMORY, reports=reports)
    return StageRunner(step), reports


def test_a_shard_that_killed_before_is_worked_on_apart():
    """Directly, the row would kill this very test."""
    runner, reports = worker(Poisoned, died=1)
    assert runner(batch("a", "kill"))["status"].to_pylist() == ["success", "crashed"]
    assert reports.told == [("begin", "p", "s/000007"), ("end", "p", "s/000007")]


def test_any_other_shard_is_worked_on_directly():
    runner, reports = worker(Poisoned, died=0)
    runner.stage = lambda rows: rows  # what a child would build anew
    assert runner(batch("kill")).num_rows == 1
    assert reports.told == [("begin", "p", "s/000007"), ("end", "p", "s/000007")]


@pytest.mark.parametrize("died", [0, 1])
def test_a_shard_that_failed_with_an_error_is_no_longer_in_hand(died):
    runner, reports = worker(Poisoned, died)
    with pytest.raises(ValueError, match="cannot stand it"):
        runner(batch(*["raise"] * 4))
    assert reports.told[1:] == [("end", "p", "s/000007"), ("fail", "p: ValueError: cannot stand it")]
