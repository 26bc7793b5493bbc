"""Run the program, kill it at a point, run the same command again, and compare with a run without faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from capfilt.stages.storage.store import Store
from tests.killing import default_signals
from tests.runs import walk
from tests.s3_server import S3
from tests.step_logs import read_steps
from tests.tiny import tiny_data, write_config

INJECT = Path(__file__).parent / "inject"
Poison = dict[str, dict[str, str]]
"""{stage: {key of a row: kind of failure}}; see `inject/sitecustomize.py`."""
HANG_SECONDS = 150
"""Seconds after which a run counts as hung. A driver that has lost its cluster may wait for it."""


@dataclass(frozen=True)
class Fault:
    """At which point what is killed; see `inject/sitecustomize.py`."""

    at: str
    kill: str = "self"

    def __str__(self) -> str:
        return f"{self.kill} at {self.at}".replace(" ", "-").replace("/", "_")


def chain_data(folder: Path, models: Path, s3: S3 | None = None) -> dict[str, Any]:
    """Config data of one streaming pass from urls to candidates, with given checkpoints: 90 rows in 5 shards.

    All runs use the same source images, which lie beside the models; the run directory is `run` in the
    folder, or on S3.
    """
    data = tiny_data(models.parent)
    data["run"]["dir"] = str(folder / "run") if s3 is None else s3_run_dir(folder)
    for name in ("pretrain", "evaluate"):
        del data[name]
    data["sources"] = {"web": data["sources"]["web"]}
    for role in ("captioner", "filter"):
        del data[role]["finetune"]
        data[role]["checkpoint"] = str(models / f"{role}.1")
    data["filter"]["calibrate"] = {"pairs": 0}
    return data


def s3_run_dir(folder: Path) -> str:
    """Run directory on the S3 server for the run whose config lies in `folder`."""
    return f"s3://bucket/{folder.name}/run"


def start(
    config: Path | str,
    fault: Fault | None = None,
    environment: Mapping[str, str] | None = None,
    command: str = "run",
    poison: Poison | None = None,
) -> subprocess.Popen[str]:
    """Start the program in a session of its own.

    Args:
        config: path of a config, or a run directory.
        fault: injected into the program and its worker processes.
        environment: additional variables, such as the address of a store or a cluster.
        command: of the program.
        poison: rows that make stages fail.
    """
    injected = {} if fault is None else fault_environment(fault, Path(config).parent / "reached")
    if poison is not None:
        injected |= {"CAPFILT_POISON": json.dumps(poison), "PYTHONPATH": inject_pythonpath()}
    with default_signals():
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", command, str(config)],
            env=os.environ | injected | dict(environment or {}),
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def fault_environment(fault: Fault, marker: Path) -> dict[str, str]:
    """Variables that make a process, and the processes that it starts, inject the fault."""
    setting = {"at": fault.at, "kill": fault.kill, "marker": str(marker)}
    return {"CAPFILT_FAULT": json.dumps(setting), "PYTHONPATH": inject_pythonpath()}


def inject_pythonpath() -> str:
    """PYTHONPATH by which processes import `inject/sitecustomize.py`."""
    return os.pathsep.join(filter(None, [str(INJECT), os.environ.get("PYTHONPATH")]))


def wait_for_exit(process: subprocess.Popen[str], seconds: float) -> tuple[int | None, str]:
    """Wait for the program and kill whatever processes it leaves.

    Returns:
        Exit code (None if it hung) and output.
    """
    try:
        output, _ = process.communicate(timeout=seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        code, output = None, ""
    try:
        os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.5)
    except ProcessLookupError:
        pass
    return code, output


def run_with_fault(folder: Path, models: Path, fault: Fault, s3: S3 | None = None) -> str:
    """Run a bootstrap with a fault, and finish it by the same command without.

    Returns:
        How the first command ended; see `classify_end`.
    """
    config = write_config(folder / "config.yaml", chain_data(folder, models, s3))
    environment = s3.environment if s3 is not None else None
    code, output = wait_for_exit(start(config, fault, environment), HANG_SECONDS)
    end = classify_end(folder, fault, code, output)
    if code != 0:
        code, output = wait_for_exit(start(config, None, environment), HANG_SECONDS)
        assert code == 0, f"{fault}: the same command exits with {code}: {output}"
    return end


def count_records(run: Path) -> int:
    """Number of records in a run directory."""
    if not run.exists():
        return 0
    return len(
        [
            p
            for p in run.rglob("*.json")
            if "manifests" not in p.parts and p.parent.name not in ("lease", "records")
        ]
    )


def signal_after_records(
    process: subprocess.Popen[str], config: Path, run: Path, records: int, signum: int
) -> None:
    """Send a signal as soon as the run directory has so many records.

    SIGKILL is sent to the driver and all processes that it started. Any other signal is sent to the driver,
    which must then exit in time and print how to resume.
    """
    deadline = time.monotonic() + 240
    while count_records(run) < records:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.05)
    if signum == signal.SIGKILL:
        os.killpg(process.pid, signum)
        process.wait()
        return
    process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, output
    assert "finishing the shards in flight" in output, output
    assert "received at time" not in output, "Ray's core has printed a trace"
    assert f"resume        capfilt run {config}" in output, output


def classify_end(folder: Path, fault: Fault, code: int | None, output: str) -> str:
    """Check that the fault was injected, and that a full disk was reported.

    Returns:
        How the command ended: "done" (it recovered by itself), "failed", "killed" or "hung".
    """
    assert (folder / "reached").exists(), f"{fault}: the point was never reached; {output}"
    if fault.kill == "full":
        errors = [line for line in output.splitlines() if line.startswith("error")]
        reported = "No space left on device" in "".join(errors)
        assert code == 1 and reported, f"{fault}: exited with {code}; {output}"
    return {0: "done", 1: "failed", None: "hung"}.get(code, "killed")


def download_run(folder: Path, s3: S3) -> Path:
    """Copy the run directory from S3 into the folder."""
    store = Store(s3_run_dir(folder), s3.options)
    for name in walk(store):
        (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / name).write_bytes(store.read(name))
    return folder / "run"


def find_differences(run: Path, reference_run: Path) -> list[str]:
    """Files that are missing, left over, or differ from the reference run: bytes, of Parquet rows and
    schema, of records all but times. Files that docs/operations.md names as harmless leftovers are
    ignored."""
    ours, theirs = list_files(run), list_files(reference_run)
    found = [f"{name}: missing" for name in sorted(set(theirs) - set(ours))]
    found += [f"{name}: left over" for name in sorted(set(ours) - set(theirs))]
    for name in sorted(set(ours) & set(theirs)):
        if read_comparable(run / name) != read_comparable(reference_run / name):
            found.append(f"{name}: differs")
    return found


def list_files(run: Path) -> set[str]:
    """Files that are compared, including temporary ones, which should be gone; without those that always
    differ from run to run."""
    names = (str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    return {name for name in names if not name.startswith(("config.yaml", "lease/", "train/", "reports/"))}


def training_curve(run: Path, training: str) -> list[dict[str, float]]:
    """The metrics of every step of a training, without times."""
    rows = read_steps(Store(str(run / "logs" / training)))
    return [{k: v for k, v in row.items() if k not in ("samples_per_second", "time")} for row in rows]


def read_comparable(path: Path) -> Any:
    """A file's content without times."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix == ".json":
        return strip_times(json.loads(path.read_text()))
    return path.read_bytes()


TIMES = ("seconds", "stage_seconds", "efficiency")


def strip_times(value: Any) -> Any:
    """JSON without the keys that hold times."""
    if isinstance(value, dict):
        return {k: strip_times(v) for k, v in value.items() if k not in TIMES}
    return [strip_times(v) for v in value] if isinstance(value, list) else value
