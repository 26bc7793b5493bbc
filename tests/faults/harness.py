"""Run, kill at a point, run the same command again, compare with an undisturbed run."""

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

from capfilt.pipeline.training.step_log import read_steps
from capfilt.stages.storage.store import Store
from tests.runs import walk
from tests.s3_server import S3
from tests.tiny import tiny_data, write_config

INJECT = Path(__file__).parent / "inject"
Poison = dict[str, dict[str, str]]
"""{stage: {key of a row: what it does}}; see `inject/sitecustomize.py`."""
HANG_SECONDS = 150
"""A driver that has lost its cluster may wait for it; a person would not wait longer."""


@dataclass(frozen=True)
class Fault:
    """Where what is killed; see `inject/sitecustomize.py`."""

    at: str
    kill: str = "self"

    def __str__(self) -> str:
        return f"{self.kill} at {self.at}".replace(" ", "-").replace("/", "_")


def chain_data(folder: Path, models: Path, s3: S3 | None = None) -> dict[str, Any]:
    """Config data of one streaming pass from urls to candidates, with given checkpoints: 90 rows in 5 shards. The
    corpus lies beside the models, the same for every run; the run directory is `run` in the folder, or on S3."""
    data = tiny_data(models.parent)
    data["run"]["dir"] = str(folder / "run") if s3 is None else on_s3(folder)
    for name in ("pretrain", "evaluate"):
        del data[name]
    data["sources"] = {"web": data["sources"]["web"]}
    for role in ("captioner", "filter"):
        del data[role]["finetune"]
        data[role]["checkpoint"] = str(models / f"{role}.1")
    return data


def on_s3(folder: Path) -> str:
    """Run directory on the S3 server of the run whose config lies in `folder`."""
    return f"s3://bucket/{folder.name}/run"


def start(
    config: Path | str,
    fault: Fault | None = None,
    environment: Mapping[str, str] | None = None,
    command: str = "run",
    poison: Poison | None = None,
) -> subprocess.Popen[str]:
    """The program, in a session of its own.

    Args:
        environment: more of it: where a store or a cluster is.
        poison: rows that misbehave.
    """
    injected = {} if fault is None else fault_environment(fault, Path(config).parent / "reached")
    if poison is not None:
        injected |= {"CAPFILT_POISON": json.dumps(poison), "PYTHONPATH": injected_path()}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", command, str(config)],
        env=os.environ | injected | dict(environment or {}),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def fault_environment(fault: Fault, marker: Path) -> dict[str, str]:
    """What makes a process, and those it starts, die at the fault."""
    told = {"at": fault.at, "kill": fault.kill, "marker": str(marker)}
    return {"CAPFILT_FAULT": json.dumps(told), "PYTHONPATH": injected_path()}


def injected_path() -> str:
    """PYTHONPATH by which processes load `inject/sitecustomize.py`."""
    return os.pathsep.join(filter(None, [str(INJECT), os.environ.get("PYTHONPATH")]))


def finish(process: subprocess.Popen[str], seconds: float) -> tuple[int | None, str]:
    """Exit code and output; None if it hung. Nothing of it is left running either way."""
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


def disturb(folder: Path, models: Path, fault: Fault, s3: S3 | None = None) -> str:
    """A run killed at the fault and finished by the same command.

    Returns:
        How the first command ended: "done" (it recovered by itself), "failed", "killed" or "hung".
    """
    config = write_config(folder / "config.yaml", chain_data(folder, models, s3))
    environment = s3.environment if s3 is not None else None
    code, output = finish(start(config, fault, environment), HANG_SECONDS)
    ending = judge(folder, fault, code, output)
    if code != 0:
        code, output = finish(start(config, None, environment), HANG_SECONDS)
        assert code == 0, f"{fault}: the same command ends with {code}: {output}"
    return ending


def committed(run: Path) -> int:
    """Records in a run directory."""
    return (
        len([p for p in run.rglob("*.json") if p.parent.name not in ("index", "lease")])
        if run.exists()
        else 0
    )


def stop_when(process: subprocess.Popen[str], config: Path, run: Path, records: int, signum: int) -> None:
    """Signal the driver, or with SIGKILL it and everything it started, as soon as `records` records stand. Asked to stop,
    it does so in time and says how to go on."""
    deadline = time.monotonic() + 240
    while committed(run) < records:
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
    assert f"resume        capfilt run {config}" in output, output


def judge(folder: Path, fault: Fault, code: int | None, output: str) -> str:
    """How a command with a fault ended, which must have come about."""
    assert (folder / "reached").exists(), f"{fault}: the point was never reached; {output}"
    if fault.kill == "full":
        said = [line for line in output.splitlines() if line.startswith("error")]
        assert code == 1 and "No space left on device" in "".join(said), (
            f"{fault}: ended with {code}; {output}"
        )
    return {0: "done", 1: "failed", None: "hung"}.get(code, "killed")


def fetched(folder: Path, s3: S3) -> Path:
    """A local copy of the run directory on S3."""
    store = Store(on_s3(folder), s3.options)
    for name in walk(store):
        (folder / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "run" / name).write_bytes(store.read(name))
    return folder / "run"


def differences(run: Path, undisturbed: Path) -> list[str]:
    """What is not as in the undisturbed run: files byte by byte, Parquet by rows and schema, records but for times;
    and leftovers that docs/operations.md does not name."""
    mine, theirs = contents(run), contents(undisturbed)
    found = [f"{name}: missing" for name in sorted(set(theirs) - set(mine))]
    found += [f"{name}: left over" for name in sorted(set(mine) - set(theirs))]
    for name in sorted(set(mine) & set(theirs)):
        if comparable(run / name) != comparable(undisturbed / name):
            found.append(f"{name}: differs")
    return found


def contents(run: Path) -> set[str]:
    """Files that count, and temporaries that should be gone: no config, no leases, nothing that differs from run to run
    by nature."""
    names = (str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    return {name for name in names if not name.startswith(("config.yaml", "lease/", "train/", "reports/"))}


def training_curve(run: Path, training: str) -> list[dict[str, float]]:
    """The numbers of every step of a training, without the times."""
    rows = read_steps(Store(str(run / "logs" / training)))
    return [{k: v for k, v in row.items() if k not in ("samples_per_second", "time")} for row in rows]


def comparable(path: Path) -> Any:
    """A file's content without times."""
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    return path.read_bytes()


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in ("seconds", "stage_seconds")}
    return [without_times(v) for v in value] if isinstance(value, list) else value
