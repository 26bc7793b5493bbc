"""A stage in a process apart: what kills that one is survived, and said."""

import os
import pickle
import subprocess
import sys
import time

import pytest

from cluster.careful import CarefulStage
from cluster.guard import Guard, Limits, private_memory
from cluster.isolation import Broken, ProcessDied, Search
from pipeline.chain import ISOLATION
from tests.cluster.poisoned import Beats, DiesAtOnce, Poisoned, Unbuildable, batch

LIMITS = Limits(stall_seconds=5.0, memory=500_000_000)


def apart(make, limits=LIMITS):
    return CarefulStage(pickle.dumps(make), limits)


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
    ("kind", "cause"),
    [
        ("hang", "no progress for 5 s"),
        ("leak", r"its process took 0\.\d GB of memory, 0.5 GB are allowed"),
    ],
)
def test_a_death_is_survived_and_its_cause_said(kind, cause):
    with apart(Poisoned) as stage:
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
        from cluster.careful import CarefulStage
        from cluster.guard import Limits
        from tests.cluster.poisoned import Poisoned, batch
        stage = CarefulStage(pickle.dumps(Poisoned), Limits())
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
        from cluster.guard import Guard, Limits
        from tests.cluster.poisoned import poison
        with Guard({limits!r}, lambda cause: print("last words:", cause, flush=True)) as guard:
            {body}
        poison("kill") if guard is None else print("went on", flush=True)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    return done.returncode, done.stdout.strip()


def test_a_guard_ends_a_process_that_hangs_or_takes_too_much():
    assert guarded("pass", LIMITS) == (0, "went on")
    assert guarded("poison('hang')", LIMITS) == (1, "")
    code, output = guarded("poison('leak')", LIMITS)
    assert code == 77 and output.startswith("last words: took 0.")


def test_a_guard_ends_nothing_once_it_is_left():
    with Guard(Limits(stall_seconds=0.2, memory=private_memory(os.getpid()) * 2), pytest.fail) as guard:
        pass
    guard.beat()
    time.sleep(0.6)


def test_memory_counts_what_is_private():
    before = private_memory(os.getpid())
    held = b"x" * 200_000_000
    assert 190e6 < private_memory(os.getpid()) - before < 300e6 and len(held)
    assert private_memory(2**22 + 1) == 0
