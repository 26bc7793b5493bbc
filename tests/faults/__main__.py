"""The long form of the fault tests: `python -m tests.faults --kills 100 --out faults.json` injects a fault at
each point in turn until so many faults are done. Exits with 1 if any of them leaves a difference.

`--on s3` puts the run directory on a busy S3 server; `--on trainings` kills the driver of a whole loop there,
`--on disk-trainings` on a disk. `--on nodes` kills a node of a cluster of several nodes, and
`--on node-trainings` does so during a training. `--on poison` has rows of each kind of failure in each stage.
"""

import argparse
import collections
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from capfilt.stages.storage.store import Store
from tests.faults import points, poison
from tests.faults.harness import (
    HANG_SECONDS,
    Fault,
    chain_data,
    classify_end,
    download_run,
    find_differences,
    run_with_fault,
    s3_run_dir,
    start,
    training_curve,
    wait_for_exit,
)
from tests.faults.nodes import LocalCluster
from tests.s3_server import S3, S3Fault
from tests.step_logs import read_steps
from tests.tiny import tiny_data, write_config

FAULTS = {
    "disk": points.ALL,
    "s3": points.S3,
    "trainings": points.TRAININGS,
    "nodes": points.NODES,
    "disk-trainings": points.DISK_TRAININGS,
    "node-trainings": points.NODE_TRAININGS,
    "poison": tuple(poison.LONG),
}
"""Value of `--on` -> faults, or names of `poison.LONG`."""
BUSY = [S3Fault(kind, every=29) for kind in ("slow_down", "error", "lost_response", "reset")]
Attempt = Callable[[Path, Any], tuple[str, list[str]]]
"""Runs one fault (or one name of `poison.LONG`) in a folder of its own, and finishes the run.

Returns (how the first command ended, differences from a run without faults)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=FAULTS, default="disk")
    parser.add_argument("--kills", type=int, help="number of faults; each point once if not given")
    parser.add_argument("--first", type=int, default=0, help="number of the point to start with")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    faults = FAULTS[options.on]
    with tempfile.TemporaryDirectory(prefix="capfilt-faults-") as place, ExitStack() as stack:
        root = Path(place)
        attempt = prepare(options.on, root, stack)
        results = []
        chosen = itertools.islice(itertools.cycle(faults), options.first, None)
        for number, fault in zip(range(options.kills or len(faults)), chosen, strict=False):
            results.append(inject(root / f"{number:03d}", fault, attempt))
            print("{ended:11}  {seconds:5.1f} s  {fault}  {differences}".format(**results[-1]), flush=True)
    endings = collections.Counter(result["ended"] for result in results)
    bad = [result for result in results if result["differences"]]
    print(f"{len(results)} kills: {dict(endings)}; {len(bad)} with differences")
    if options.out is not None:
        options.out.write_text(json.dumps({"endings": endings, "results": results}, indent=1) + "\n")
    raise SystemExit(1 if bad else 0)


def inject(folder: Path, fault: Fault | str, attempt: Attempt) -> dict[str, object]:
    """Run one fault and measure its time."""
    folder.mkdir()
    began = time.monotonic()
    try:
        end, found = attempt(folder, fault)
    except AssertionError as error:
        end, found = "not resumed", [str(error)]
    shutil.rmtree(folder)
    seconds = round(time.monotonic() - began, 1)
    return {"fault": str(fault), "ended": end, "differences": found, "seconds": seconds}


def prepare(place: str, root: Path, stack: ExitStack) -> Attempt:
    """Make models and a reference run, without faults, to compare with, and choose how faults are run.

    Args:
        place: value of `--on`.
        root: folder for everything.
        stack: closes what is started.
    """
    models = make_models(root / "models")
    s3 = None
    if place in ("s3", "trainings"):
        s3 = S3()
        stack.callback(s3.stop)
        s3.inject(*BUSY)
    if place in ("trainings", "disk-trainings"):
        return lambda folder, fault: run_loop(folder, root / "models", fault, s3)
    if place == "node-trainings":
        return lambda folder, fault: run_loop_on_nodes(folder, root / "models", fault)
    reference = root / "reference"
    reference.mkdir()
    config = write_config(reference / "config.yaml", chain_data(reference, models))
    code, output = wait_for_exit(start(config, None), 300)
    assert code == 0, output

    if place == "poison":
        return lambda folder, name: run_poisoned(folder, models, reference / "run", name)

    def attempt(folder: Path, fault: Fault) -> tuple[str, list[str]]:
        if place == "nodes":
            end = run_on_nodes(folder, models, fault)
        else:
            end = run_with_fault(folder, models, fault, s3)
        run = folder / "run" if s3 is None else download_run(folder, s3)
        return end, find_differences(run, reference / "run")

    return attempt


def run_poisoned(folder: Path, models: Path, reference: Path, name: str) -> tuple[str, list[str]]:
    """A run with poisoned rows, which it must finish by itself."""
    rows = poison.LONG[name]
    poison.run_poisoned(folder, models, rows)
    return "done", poison.find_differences(folder / "run", reference, rows)


def run_on_nodes(folder: Path, models: Path, fault: Fault) -> str:
    """A run on a cluster that loses a node, which it must finish by itself, or its head, after which the same
    command must finish it on another cluster."""
    data = chain_data(folder, models)
    data["cluster"] = {"address": "auto"}
    config = write_config(folder / "config.yaml", data)
    with LocalCluster(folder, fault) as cluster:
        # Ray detects within half a minute that a node is dead, and the chain waits a minute for another.
        code, output = wait_for_exit(start(config, None, cluster.environment), 2 * HANG_SECONDS)
    end = classify_end(folder, fault, code, output)
    assert code == 0 or fault.kill == "gcs", (
        f"{fault}: the run did not continue, it exited with {code}: {output}"
    )
    if code != 0:
        with LocalCluster(folder, None) as cluster:
            code, output = wait_for_exit(start(config, None, cluster.environment), HANG_SECONDS)
        assert code == 0, f"{fault}: the same command exits with {code}: {output}"
    return end


def run_loop(folder: Path, reference: Path, fault: Fault, s3: S3 | None) -> tuple[str, list[str]]:
    """A whole loop, on S3 or on the disk."""
    data = tiny_data(reference)
    data["run"]["dir"] = str(folder / "run") if s3 is None else s3_run_dir(folder)
    config = write_config(folder / "config.yaml", data)
    environment = None if s3 is None else s3.environment
    code, output = wait_for_exit(start(config, fault, environment), 3 * HANG_SECONDS)
    end = classify_end(folder, fault, code, output)
    checkpointed = read_first_steps(folder / "run", 4) if fault in points.DISK_TRAININGS else []
    code, output = wait_for_exit(start(config, None, environment), 3 * HANG_SECONDS)
    assert code == 0, f"{fault}: the same command exits with {code}: {output}"
    run = folder / "run" if s3 is None else download_run(folder, s3)
    found = find_loop_differences(run, reference / "run")
    if checkpointed and read_first_steps(run, 4) != checkpointed:
        found.append("logs/pretrain.0: steps before the checkpoint were repeated")
    return end, found


def read_first_steps(run: Path, last: int) -> list[dict[str, float]]:
    """Log rows of the first pretraining up to step `last`, with the times at which the steps were taken."""
    rows = read_steps(Store(str(run / "logs/pretrain.0")))
    return [row for row in rows if row["step"] <= last]


def run_loop_on_nodes(folder: Path, reference: Path, fault: Fault) -> tuple[str, list[str]]:
    """A whole loop on a cluster that loses the node that trains, which it must finish by itself."""
    data = tiny_data(reference)
    data["run"]["dir"] = str(folder / "run")
    data["cluster"] = {"address": "auto"}
    config = write_config(folder / "config.yaml", data)
    with LocalCluster(folder, fault) as cluster:
        code, output = wait_for_exit(start(config, None, cluster.environment), 4 * HANG_SECONDS)
    end = classify_end(folder, fault, code, output)
    assert code == 0, f"{fault}: the run did not continue, it exited with {code}: {output}"
    return end, find_loop_differences(folder / "run", reference / "run")


def find_loop_differences(run: Path, reference: Path) -> list[str]:
    """Differences of a whole loop: models byte by byte, and the metrics of every training step."""
    found = [line for line in find_differences(run, reference) if not line.startswith("logs/")]
    for training in ("pretrain.0", "captioner.1", "filter.1", "pretrain.1"):
        if training_curve(run, training) != training_curve(reference, training):
            found.append(f"logs/{training}: steps differ")
    return found


def make_models(folder: Path) -> Path:
    """Train captioner and filter in a tiny loop; return the folder of the run's models."""
    folder.mkdir()
    data = tiny_data(folder)
    data["run"]["dir"] = str(folder / "run")
    config = write_config(folder / "config.yaml", data)
    code, output = wait_for_exit(start(config), 600)
    assert code == 0, output
    return folder / "run" / "models"


if __name__ == "__main__":
    main()
