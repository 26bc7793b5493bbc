"""The long form: `python -m tests.faults --kills 100 --out faults.json` kills at every point, then again from the
start, until so many kills are done; `--poison` runs each kind of poisoned row in each stage instead. Exit 1 if any of
them left a difference."""

import argparse
import collections
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import poison
from tests.faults.harness import Fault, Poison, chain_data, differences, disturb, finish, start
from tests.faults.points import ALL
from tests.faults.poison import LONG
from tests.tiny import tiny_data, write_config

Trial = Callable[[Path, Path], tuple[str, list[str]]]
"""Runs in a folder; how it ended, and what differs from the undisturbed run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=len(ALL))
    parser.add_argument("--poison", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capfilt-faults-") as place:
        root = Path(place)
        models = make_models(root / "models")
        undisturbed = root / "undisturbed"
        undisturbed.mkdir()
        config = write_config(undisturbed / "config.yaml", chain_data(undisturbed, models))
        code, output = finish(start(config), 300)
        assert code == 0, output
        if options.poison:
            trials = {name: partial(_poison, rows, models) for name, rows in LONG.items()}
        else:
            kills = zip(range(options.kills), itertools.cycle(ALL), strict=False)
            trials = {f"{number + 1:3d} {fault}": partial(_kill, fault, models) for number, fault in kills}
        results = [_try(root / "trial", name, trial, undisturbed / "run") for name, trial in trials.items()]
    endings = collections.Counter(result["ended"] for result in results)
    bad = [result for result in results if result["differences"]]
    print(f"{len(results)} trials: {dict(endings)}; {len(bad)} with differences")
    if options.out is not None:
        options.out.write_text(json.dumps({"endings": endings, "results": results}, indent=1) + "\n")
    raise SystemExit(1 if bad else 0)


def _try(folder: Path, name: str, trial: Trial, undisturbed: Path) -> dict[str, Any]:
    """One trial in a folder of its own, timed."""
    folder.mkdir()
    began = time.monotonic()
    try:
        ending, found = trial(folder, undisturbed)
    except AssertionError as error:
        ending, found = "not to its end", [str(error)]
    seconds = round(time.monotonic() - began, 1)
    print(f"{ending:14}  {seconds:5.1f} s  {name}  {found or 'equal'}", flush=True)
    shutil.rmtree(folder)
    return {"trial": name, "ended": ending, "differences": found, "seconds": seconds}


def _kill(fault: Fault, models: Path, folder: Path, undisturbed: Path) -> tuple[str, list[str]]:
    ending = disturb(folder, models, fault)
    return ending, differences(folder / "run", undisturbed)


def _poison(rows: Poison, models: Path, folder: Path, undisturbed: Path) -> tuple[str, list[str]]:
    poison.poisoned(folder, models, rows)
    return "done", poison.differences(folder / "run", undisturbed, rows)


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
