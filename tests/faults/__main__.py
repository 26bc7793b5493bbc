"""The long form: `python -m tests.faults --kills 100 --out faults.json` kills at every point, then again from the
start, until so many kills are done. Exit 1 if any of them left a difference.

`--on s3` has the run directory on a busy S3 server, `--on trainings` kills a whole loop there, `--on disk-trainings` one on the
disk, `--on nodes` works on a cluster of several nodes and kills one of them, `--on node-trainings` does so while a whole loop trains, `--on poison` has
rows of each kind of poison in each stage.
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

from capfilt.pipeline.training.step_log import read_steps
from capfilt.stages.storage.store import Store
from tests.faults import points, poison
from tests.faults.harness import (
    HANG_SECONDS,
    Fault,
    chain_data,
    differences,
    disturb,
    fetched,
    finish,
    judge,
    on_s3,
    start,
    training_curve,
)
from tests.faults.nodes import Nodes
from tests.s3_server import S3, Trouble
from tests.tiny import tiny_data, write_config

PLACES = {
    "disk": points.ALL,
    "s3": points.S3,
    "trainings": points.TRAININGS,
    "nodes": points.NODES,
    "disk-trainings": points.DISK_TRAININGS,
    "node-trainings": points.NODE_TRAININGS,
    "poison": tuple(poison.LONG),
}
BUSY = [Trouble(kind, every=29) for kind in ("slow_down", "error", "lost", "reset")]
Attempt = Callable[[Path, Any], tuple[str, list[str]]]
"""Disturb a run, by a fault or by the rows of `poison.LONG` that are named, in a folder of its own, and see it to its end:
how it ended at first, and what differs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", choices=PLACES, default="disk")
    parser.add_argument("--kills", type=int, help="all points once when not given")
    parser.add_argument("--first", type=int, default=0, help="number of the point to begin with")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    faults = PLACES[options.on]
    with tempfile.TemporaryDirectory(prefix="capfilt-faults-") as place, ExitStack() as stack:
        root = Path(place)
        attempt = prepare(options.on, root, stack)
        results = []
        chosen = itertools.islice(itertools.cycle(faults), options.first, None)
        for number, fault in zip(range(options.kills or len(faults)), chosen, strict=False):
            results.append(kill(root / f"{number:03d}", fault, attempt))
            print("{ended:11}  {seconds:5.1f} s  {fault}  {differences}".format(**results[-1]), flush=True)
    endings = collections.Counter(result["ended"] for result in results)
    bad = [result for result in results if result["differences"]]
    print(f"{len(results)} kills: {dict(endings)}; {len(bad)} with differences")
    if options.out is not None:
        options.out.write_text(json.dumps({"endings": endings, "results": results}, indent=1) + "\n")
    raise SystemExit(1 if bad else 0)


def kill(folder: Path, fault: Fault | str, attempt: Attempt) -> dict[str, object]:
    folder.mkdir()
    began = time.monotonic()
    try:
        ending, found = attempt(folder, fault)
    except AssertionError as error:
        ending, found = "not resumed", [str(error)]
    shutil.rmtree(folder)
    seconds = round(time.monotonic() - began, 1)
    return {"fault": str(fault), "ended": ending, "differences": found, "seconds": seconds}


def prepare(place: str, root: Path, stack: ExitStack) -> Attempt:
    """What there is to compare with, made once; and how a run is disturbed there."""
    models = make_models(root / "models")
    s3 = None
    if place in ("s3", "trainings"):
        s3 = S3()
        stack.callback(s3.stop)
        s3.trouble(*BUSY)
    if place in ("trainings", "disk-trainings"):
        return lambda folder, fault: trainings(folder, root / "models", fault, s3)
    if place == "node-trainings":
        return lambda folder, fault: node_trainings(folder, root / "models", fault)
    undisturbed = root / "undisturbed"
    undisturbed.mkdir()
    code, output = finish(
        start(write_config(undisturbed / "config.yaml", chain_data(undisturbed, models)), None), 300
    )
    assert code == 0, output

    if place == "poison":
        return lambda folder, name: poison_rows(folder, models, undisturbed / "run", name)

    def attempt(folder: Path, fault: Fault) -> tuple[str, list[str]]:
        ending = nodes(folder, models, fault) if place == "nodes" else disturb(folder, models, fault, s3)
        run = folder / "run" if s3 is None else fetched(folder, s3)
        return ending, differences(run, undisturbed / "run")

    return attempt


def poison_rows(folder: Path, models: Path, undisturbed: Path, name: str) -> tuple[str, list[str]]:
    """A run with poisoned rows, which it must get over by itself."""
    rows = poison.LONG[name]
    poison.poisoned(folder, models, rows)
    return "done", poison.differences(folder / "run", undisturbed, rows)


def nodes(folder: Path, models: Path, fault: Fault) -> str:
    """A run on a cluster that loses a node, which it must get over by itself, or its head; then the same command on
    another cluster."""
    data = chain_data(folder, models)
    data["cluster"] = {"address": "auto"}
    config = write_config(folder / "config.yaml", data)
    with Nodes(folder, fault) as cluster:
        # Ray finds out within half a minute that a node is dead, and the chain waits a minute for another.
        code, output = finish(start(config, None, cluster.environment), 2 * HANG_SECONDS)
    ending = judge(folder, fault, code, output)
    assert code == 0 or fault.kill == "gcs", f"{fault}: the run did not go on, it ended with {code}: {output}"
    if code != 0:
        with Nodes(folder, None) as cluster:
            code, output = finish(start(config, None, cluster.environment), HANG_SECONDS)
        assert code == 0, f"{fault}: the same command ends with {code}: {output}"
    return ending


def trainings(folder: Path, undisturbed: Path, fault: Fault, s3: S3 | None) -> tuple[str, list[str]]:
    """A whole loop, on S3 or on the disk."""
    data = tiny_data(undisturbed)
    data["run"]["dir"] = str(folder / "run") if s3 is None else on_s3(folder)
    config = write_config(folder / "config.yaml", data)
    environment = None if s3 is None else s3.environment
    code, output = finish(start(config, fault, environment), 3 * HANG_SECONDS)
    ending = judge(folder, fault, code, output)
    checkpointed = steps_until(folder / "run", 4) if fault in points.DISK_TRAININGS else []
    code, output = finish(start(config, None, environment), 3 * HANG_SECONDS)
    assert code == 0, f"{fault}: the same command ends with {code}: {output}"
    run = folder / "run" if s3 is None else fetched(folder, s3)
    found = loop_differences(run, undisturbed / "run")
    if checkpointed and steps_until(run, 4) != checkpointed:
        found.append("logs/pretrain.0: steps before the checkpoint were taken again")
    return ending, found


def steps_until(run: Path, last: int) -> list[dict[str, float]]:
    """Of the first pretraining, with the times at which they were taken."""
    rows = read_steps(Store(str(run / "logs/pretrain.0")))
    return [row for row in rows if row["step"] <= last]


def node_trainings(folder: Path, undisturbed: Path, fault: Fault) -> tuple[str, list[str]]:
    """A whole loop on a cluster that loses the node which trains, which it must get over by itself."""
    data = tiny_data(undisturbed)
    data["run"]["dir"] = str(folder / "run")
    data["cluster"] = {"address": "auto"}
    config = write_config(folder / "config.yaml", data)
    with Nodes(folder, fault) as cluster:
        code, output = finish(start(config, None, cluster.environment), 4 * HANG_SECONDS)
    ending = judge(folder, fault, code, output)
    assert code == 0, f"{fault}: the run did not go on, it ended with {code}: {output}"
    return ending, loop_differences(folder / "run", undisturbed / "run")


def loop_differences(run: Path, undisturbed: Path) -> list[str]:
    """Of a whole loop: models byte by byte, and the numbers of every step."""
    found = [line for line in differences(run, undisturbed) if not line.startswith("logs/")]
    for training in ("pretrain.0", "captioner.1", "filter.1", "pretrain.1"):
        if training_curve(run, training) != training_curve(undisturbed, training):
            found.append(f"logs/{training}: other steps")
    return found


def make_models(folder: Path) -> Path:
    """Captioner and filter of a tiny loop."""
    folder.mkdir()
    data = tiny_data(folder)
    data["run"]["dir"] = str(folder / "run")
    config = write_config(folder / "config.yaml", data)
    code, output = finish(start(config), 600)
    assert code == 0, output
    return folder / "run" / "models"


if __name__ == "__main__":
    main()
