"""Rows per second at which a manifest is cut into the index of its shards.

    python -m benchmarks.index                        # 2,000,000 rows as Parquet, 1,000,000 as CSV
    python -m benchmarks.index --repeats 5 --shard-size 10000

The manifests have the columns of a published url list: url, caption, width, height, a similarity, and in the
case `embedded` images in the file. Each measurement is a process of its own: seconds without the start of
Python, seconds of all its threads on CPUs, and peak memory beyond that of the imports. The figures are those
of the median of the repeats. The last line is the result as one JSON object, which is stored as
benchmarks/results/index.json too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.parts.results import store_report

WORDS = [
    "a",
    "an",
    "the",
    "dog",
    "cat",
    "red",
    "blue",
    "photo",
    "of",
    "with",
    "on",
    "street",
    "tree",
    "house",
    "near",
    "two",
    "small",
    "big",
    "old",
    "new,",
    "and",
]
GROUP_ROWS = 200_000
IMAGE_BYTES = 20_000


def main() -> None:
    """Measure, and store the result."""
    options = parse_options()
    if options.cut:
        print(json.dumps(cut(options.cut, options.shard_size)))
        return
    cases = {
        "parquet": options.rows,
        "parquet_files": options.rows,
        "csv": options.csv_rows,
        "embedded": 20_000,
    }
    found: dict[str, Any] = {"machine": describe_machine(), "shard_size": options.shard_size, "cases": {}}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for case in options.cases or cases:
            place = f"{folder}/{case}"
            make_manifest(case, place, cases[case])
            runs = [run_cut(place, options.shard_size) for _ in range(options.repeats)]
            median = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
            found["cases"][case] = summarize(median, Path(place)) | {"runs": runs}
            print(json.dumps({case: found["cases"][case]}), flush=True)
    store_report("index", found)
    print(json.dumps(found))


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--csv-rows", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="*", choices=["parquet", "parquet_files", "csv", "embedded"])
    parser.add_argument("--folder", help="Where manifests are made; a temporary folder if not given.")
    parser.add_argument("--cut", help=argparse.SUPPRESS)
    return parser.parse_args()


def describe_machine() -> dict[str, Any]:
    """Hardware and versions."""
    return {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "pyarrow": version("pyarrow"),
    }


def summarize(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Rates of a run."""
    return {
        "rows": run["rows"],
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "rows_per_second": round(run["rows"] / run["seconds"]),
        "rows_per_cpu_second": round(run["rows"] / run["cpu_seconds"]),
        "grown_gb": run["grown_gb"],
    }


def make_manifest(case: str, folder: str, rows: int) -> None:
    """Write a manifest: one file, or ten (`parquet_files`)."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    Path(folder).mkdir()
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(4, 16))) for _ in range(10_000)]
    files = 10 if case == "parquet_files" else 1
    for file in range(files):
        numbers = range(file * rows // files, (file + 1) * rows // files)
        table = pa.table(
            {
                "url": [
                    f"https://img{n % 977}.example.org/photos/{n * 7919 % 10**9}/{n}.jpg" for n in numbers
                ],
                "caption": [f"{rng.choice(texts)} {n}" for n in numbers],
                "width": [n % 4000 for n in numbers],
                "height": [n % 3000 for n in numbers],
                "similarity": [n % 1000 / 1000 for n in numbers],
            }
        )
        if case == "embedded":
            paths = table["url"]
            images = [{"bytes": rng.randbytes(IMAGE_BYTES), "path": path.as_py()} for path in paths]
            table = table.drop_columns("url").append_column("image", pa.array(images))
        if case == "csv":
            pyarrow.csv.write_csv(table, f"{folder}/{file:02d}.csv")
        else:
            group = 1000 if case == "embedded" else GROUP_ROWS
            pq.write_table(table, f"{folder}/{file:02d}.parquet", row_group_size=group)


def run_cut(folder: str, shard_size: int) -> dict[str, Any]:
    """Cut a manifest in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.index", "--cut", folder, "--shard-size", str(shard_size)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def cut(folder: str, shard_size: int) -> dict[str, Any]:
    """Cut a manifest; the index is removed."""
    from capfilt.stages.manifest.config import ManifestConfig
    from capfilt.stages.manifest.index import build_index
    from capfilt.stages.storage.store import Store

    before, peak = resource.getrusage(resource.RUSAGE_SELF), peak_memory()
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as target:
        start = time.perf_counter()
        index = build_index(
            ManifestConfig(manifest=folder, shard_size=shard_size), Store(target), source="web"
        )
        seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": index.rows,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 3),
        "grown_gb": round(peak_memory() - peak, 3),
    }


def peak_memory() -> float:
    """Most memory that this process has had, in GB; `getrusage` also counts that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


if __name__ == "__main__":
    main()
