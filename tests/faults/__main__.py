"""The long form: `python -m tests.faults --kills 100 --out faults.json` kills at every point, then again from the
start, until so many kills are done. Exit 1 if any of them left a difference."""

import argparse
import collections
import itertools
import json
import shutil
import tempfile
import time
from pathlib import Path

from tests.faults.harness import chain_data, differences, disturb, finish, start
from tests.faults.points import ALL
from tests.tiny import tiny_data, write_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=len(ALL))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="capfilt-faults-") as place:
        root = Path(place)
        models = make_models(root / "models")
        undisturbed = root / "undisturbed"
        undisturbed.mkdir()
        config = write_config(undisturbed / "config.yaml", chain_data(undisturbed, models))
        code, output = finish(start(config, None), 300)
        assert code == 0, output
        results = []
        for number, fault in zip(range(options.kills), itertools.cycle(ALL), strict=False):
            folder = root / f"{number:03d}"
            folder.mkdir()
            began = time.monotonic()
            try:
                ending, found = disturb(folder, models, fault), None
                found = differences(folder / "run", undisturbed / "run")
            except AssertionError as error:
                ending, found = "not resumed", [str(error)]
            seconds = round(time.monotonic() - began, 1)
            results.append({"fault": str(fault), "ended": ending, "differences": found, "seconds": seconds})
            print(f"{number + 1:3d}  {ending:11}  {seconds:5.1f} s  {fault}  {found or 'equal'}", flush=True)
            shutil.rmtree(folder)
        endings = collections.Counter(result["ended"] for result in results)
        bad = [result for result in results if result["differences"]]
        print(f"{len(results)} kills: {dict(endings)}; {len(bad)} with differences")
        if options.out is not None:
            options.out.write_text(json.dumps({"endings": endings, "results": results}, indent=1) + "\n")
        raise SystemExit(1 if bad else 0)


def make_models(folder: Path) -> Path:
    """Captioner and filter of a tiny loop."""
    folder.mkdir()
    data = tiny_data(folder)
    data["run"]["dir"] = str(folder / "run")
    config = write_config(folder / "config.yaml", data)
    code, output = finish(start(config, None), 600)
    assert code == 0, output
    return folder / "run" / "models"


if __name__ == "__main__":
    main()
