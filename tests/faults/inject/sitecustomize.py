"""Faults for tests: Python imports this file in every process whose PYTHONPATH names its folder.

CAPFILT_FAULT is JSON: {"at": a regular expression for points, "kill": "self" | "raylet" | "driver" | "head" |
"node" | "gcs" | "full", "marker": a path}. "raylet" and "head" are those of an embedded Ray, "node" is the
raylet above the process that reaches the point, "gcs" the head of tests/faults/nodes.py. Only the first
process that reaches the point creates the marker and sends SIGKILL to the target. "full" kills no process:
each process that reaches the point gets an error for a full disk. A point is a function of this project,
before or after its body (or between the temporary and the final name of a file), and its argument:

    put before images/web/000001.tar      put torn …     put after …     (also `create`)
    stage before caption 1                stage after …  (the number of the shard)
    list torn 2                           Ray Train's list of checkpoints when it has so many

CAPFILT_POISON is JSON: {stage: {key of a row: "raise" | "kill" | "segv" | "hang" | "leak"}}. A process that
processes such a row in that stage fails in this way.

CAPFILT_BLIND is a folder that the stores of a process do not find, as on a node that does not mount it.

CAPFILT_PACE is JSON: {"trace": a path, "seconds": {stage: seconds}, "until": a path}. Each stage takes so
much longer for a shard, until the last file exists, and appends a JSON line to the trace when it begins a
shard and when it has finished it.
"""

import errno
import functools
import importlib.abc
import importlib.util
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

FAULT = json.loads(os.environ.get("CAPFILT_FAULT", "null"))
POISON = json.loads(os.environ.get("CAPFILT_POISON", "{}"))
PACE = json.loads(os.environ.get("CAPFILT_PACE", "null"))


def reach(point):
    """Inject the fault if this is its point and no process has reached it before."""
    if not re.fullmatch(FAULT["at"], point):
        return
    try:
        os.close(os.open(FAULT["marker"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        if FAULT["kill"] != "full":  # a full disk stays full
            return
    if FAULT["kill"] == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), point)
    os.kill(find_target(FAULT["kill"]), signal.SIGKILL)
    if FAULT["kill"] != "self":
        time.sleep(1.0)  # until the target is dead, so that this process does not use it


def find_target(name):
    """Process id of the process to kill."""
    driver = int(os.environ["CAPFILT_DRIVER"])
    if name == "self":
        return os.getpid()
    if name == "driver":
        return driver
    if name == "gcs":
        return int(os.environ["CAPFILT_GCS"])
    if name == "node":
        ancestors = find_ancestors(os.getpid())
        return next(pid for pid in ancestors if "/raylet/raylet" in read_program(Path(f"/proc/{pid}")))
    program = {"raylet": "/raylet/raylet", "head": "/gcs_server"}[name]
    for entry in Path("/proc").iterdir():
        is_program = entry.name.isdigit() and program in read_program(entry)
        if is_program and driver in find_ancestors(int(entry.name)):
            return int(entry.name)
    raise RuntimeError(f"no process {program}")


def read_program(entry):
    try:
        return (entry / "cmdline").read_text(errors="replace").partition("\0")[0]
    except OSError:
        return ""


def find_ancestors(pid):
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def patch_store(module):
    """Add points before a write, between its temporary and its final name, and after it."""
    for operation in ("put", "create"):
        wrap_write(module.Store, operation)
    original = module.Store._write_temporary

    def write_temporary(self, name, data):
        temporary = original(self, name, data)
        reach(f"{getattr(self, 'operation', 'put')} torn {path_in_run(self, name)}")
        return temporary

    module.Store._write_temporary = write_temporary


def wrap_write(store, operation):
    original = getattr(store, operation)

    def write(self, name, data, *more):
        self.operation = operation
        reach(f"{operation} before {path_in_run(self, name)}")
        result = original(self, name, data, *more)
        reach(f"{operation} after {path_in_run(self, name)}")
        return result

    setattr(store, operation, write)


def path_in_run(store, name):
    """The path of a file relative to the run directory, which is named `run`."""
    return store.path(name).rpartition("/run/")[2]


def patch_engine(module):
    """Add points before and after a stage processes a shard."""
    original = module.StageRunner.__call__

    def call(self, batch):
        shard = batch["shard"][0].as_py() if batch.num_rows and "shard" in batch.column_names else "?"
        reach(f"stage before {self.step.name} {shard}")
        result = original(self, batch)
        reach(f"stage after {self.step.name} {shard}")
        return result

    module.StageRunner.__call__ = call


def patch_pace(module):
    """Trace what the stages do, and let them take longer."""
    original = module.StageRunner._run

    def run(self, batch):
        stage = self.step.name
        if stage == "read":  # its input has no rows of a shard
            return original(self, batch)
        shard = batch["shard"][0].as_py()
        trace(stage, shard, "begin")
        if not os.path.exists(PACE["until"]):
            time.sleep(PACE["seconds"].get(stage, 0))
        result = original(self, batch)
        trace(stage, shard, "end")
        return result

    module.StageRunner._run = run


def trace(stage, shard, event):
    import ray

    node = ray.get_runtime_context().get_node_id()
    line = json.dumps({"time": time.time(), "node": node, "stage": stage, "shard": shard, "event": event})
    with open(PACE["trace"], "a") as stream:  # one write of a short line is atomic
        stream.write(line + "\n")


def patch_list(module):
    """Add a point at which half of Ray Train's list of checkpoints is written."""
    original = module.CheckpointManager._write_state_to_storage

    def write(self):
        point, context = f"list torn {self._current_report_index}", self._storage_context
        if re.fullmatch(FAULT["at"], point):
            state = self._save_state().encode()
            with context.storage_filesystem.open_output_stream(context.checkpoint_manager_snapshot_path) as f:
                f.write(state[: len(state) // 2])
            reach(point)
        original(self)

    module.CheckpointManager._write_state_to_storage = write


def fail_as(kind):
    """Fail as the row says, for a few minutes at most."""
    if kind == "raise":
        raise ValueError("poisoned")
    if kind in ("kill", "segv"):
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "segv": signal.SIGSEGV}[kind])
    if kind == "hang":
        time.sleep(200)
    if kind == "leak":
        held = []
        while len(held) < 64:  # 4 GB
            held.append(b"x" * (64 << 20))
            time.sleep(0.02)
        time.sleep(200)


def patch_stage(module, cls, stage):
    """Let active rows that are poisoned in this stage take effect before its call."""
    original = getattr(module, cls).__call__

    def call(self, batch):
        rows = zip(batch["key"].to_pylist(), batch["status"].to_pylist(), strict=True)
        for key in [key for key, status in rows if status in ("pending", "success")]:
            fail_as(POISON[stage].get(key))
        return original(self, batch)

    getattr(module, cls).__call__ = call


def patch_blind(module):
    """Look for the files of a folder in one that does not exist."""
    original = module.Store.path

    def path(self, name=""):
        return original(self, name).replace(os.environ["CAPFILT_BLIND"], "/not-mounted")

    module.Store.path = path


PATCHES = {}
if "CAPFILT_BLIND" in os.environ:
    PATCHES["capfilt.stages.storage.store"] = patch_blind
if FAULT is not None:
    PATCHES |= {
        "capfilt.stages.storage.store": patch_store,
        "capfilt.cluster.chain.steps": patch_engine,
        "ray.train.v2._internal.execution.checkpoint.checkpoint_manager": patch_list,
    }
if PACE is not None:
    PATCHES["capfilt.cluster.chain.steps"] = patch_pace
ROWWISE = {
    "read": ("shards.read", "Unpack"),
    "fetch": ("fetch.stage", "Fetch"),
    "caption": ("bootstrap.caption", "Caption"),
    "filter": ("bootstrap.filter", "Filter"),
    "write": ("shards.pack", "Pack"),
}
"""Stage -> module and class that process its rows."""
PATCHES |= {
    f"capfilt.stages.{ROWWISE[stage][0]}": functools.partial(patch_stage, cls=ROWWISE[stage][1], stage=stage)
    for stage in POISON
}


class Patcher(importlib.abc.MetaPathFinder):
    """Patches modules when they are imported."""

    def find_spec(self, name, path, target=None):
        patch = PATCHES.pop(name, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(name)
        original = spec.loader.exec_module

        def exec_module(module):
            original(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


if PATCHES:
    os.environ.setdefault("CAPFILT_DRIVER", str(os.getpid()))
    sys.meta_path.insert(0, Patcher())
