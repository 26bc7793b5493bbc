"""Training on Ray Train: two workers, one of which is killed, have the curve of one worker."""

import copy
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from capfilt.cluster.training.rescue import SNAPSHOT_FILE
from capfilt.pipeline.config.load import parse_config
from capfilt.stages.storage.store import Store
from tests.runs import run_dag
from tests.step_logs import read_steps

STEPS, CHECKPOINT_EVERY = 60, 10
VARYING = ("samples_per_second", "time", "epoch_read_mb", "epoch_received_mb")


@pytest.fixture(scope="module")
def fetched(tiny, finished, tmp_path_factory):
    """(run directory, config data) of a pretraining with queue and momentum whose corpus is fetched."""
    run = tmp_path_factory.mktemp("fetched") / "run"
    for folder in ("corpus", "images", "manifests", "records/corpus", "duplicates"):
        shutil.copytree(finished[0] / folder, run / folder)
    (run / "nodes").mkdir()
    for name in ("config.yaml", "nodes/fetch.json"):
        shutil.copy(finished[0] / name, run / name)
    data = copy.deepcopy(tiny[1])
    data["pretrain"]["steps"] = STEPS
    data["pretrain"]["workers"] = {"checkpoint_every": CHECKPOINT_EVERY, "workers": 2}
    data["model"]["med"]["text"]["dropout"] = 0.0  # its draws depend on the rank
    data["pretrain"]["objective"] |= {"queue_size": 20, "alpha": 0.4, "negative_all_rank": True}
    return run, data


def pretrain(fetched, folder, *, workers=2, meanwhile=None):
    """The curve of `pretrain.0` on a copy of the fetched run."""
    original, data = fetched
    shutil.copytree(original, folder)
    data = copy.deepcopy(data)
    data["run"]["dir"] = str(folder)
    data["pretrain"]["workers"]["workers"] = workers
    thread = threading.Thread(target=meanwhile, args=(folder,)) if meanwhile else None
    if thread is not None:
        thread.start()
    outcome = run_dag(parse_config(data, "tiny"), Console(quiet=True), until="pretrain.0")
    if thread is not None:
        thread.join()
    assert outcome.failed == {}
    rows = read_steps(Store(str(folder / "logs/pretrain.0")))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return rows


def test_two_workers_of_which_one_is_killed_have_the_curve_of_one(fetched, tmp_path):
    """Up to rounding, since gradients are summed in another order. That a resumed learner is exact is tested
    in tests/pipeline/training/test_learner.py."""
    killed, taken = [], []

    def kill(folder):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            workers = train_workers()
            if workers and any("step_" in read(path) for path in (folder / "train").rglob(SNAPSHOT_FILE)):
                taken.extend(first_steps(folder))
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
            time.sleep(0.01)

    curve = pretrain(fetched, tmp_path / "two", meanwhile=kill)
    assert killed, "the training ended before it could be disturbed"
    assert len(taken) == CHECKPOINT_EVERY
    assert first_steps(tmp_path / "two") == taken, "steps before the checkpoint were repeated"
    expected = pretrain(fetched, tmp_path / "one", workers=1)
    files = [path for name in ("corpus", "images") for path in (tmp_path / "one" / name).rglob("*.*")]
    stored = sum(path.stat().st_size for path in files if path.suffix in (".tar", ".parquet")) / 1e6
    # In the first epoch each worker has all that is read for the epoch divided by the number of workers.
    assert 0 < curve[0]["epoch_read_mb"] == pytest.approx(expected[0]["epoch_read_mb"] / 2)
    assert expected[0]["epoch_read_mb"] <= stored
    assert curve[-1]["epoch_received_mb"] < expected[-1]["epoch_received_mb"]
    for two, one in zip(curve, expected, strict=True):
        for row in (two, one):
            for name in VARYING:
                row.pop(name)
        assert two == pytest.approx(one, rel=1e-3), one["step"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def first_steps(folder):
    """Log rows up to the first checkpoint, with the times at which the steps were taken."""
    rows = read_steps(Store(str(folder / "logs/pretrain.0")))
    return [row for row in rows if row["step"] <= CHECKPOINT_EVERY]


def train_workers():
    """Process ids of this process's Ray Train workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and "RayTrainWorker" in read(entry / "cmdline"):
            found += [int(entry.name)] if os.getpid() in ancestors(int(entry.name)) else []
    return sorted(found)


def ancestors(pid):
    """Process ids of all ancestors of a process."""
    found = []
    while pid > 1:
        fields = read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        pid = int(fields[1]) if fields else 0
        found.append(pid)
    return found


def read(path):
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has exited
        return ""
