"""Images fetched per second: capfilt against img2dataset, with the same urls, cores and settings.

    python -m benchmarks.fetch                      # both sides, alternating
    python -m benchmarks.fetch --memory 50000       # only capfilt: resident memory after every shard

Both sides download, check, decode, scale the shorter side to --size, encode as JPEG, hash (sha256) and write
tar and Parquet, one process per core, shard after shard. The capfilt side is read → fetch → write as the
engine runs them, the img2dataset side its `Downloader` with webdataset output. Neither uses Ray.

For a fair comparison, both sides run in the same process pool, which is warm before the measurement:
img2dataset's own pool spends seconds on imports and restarts its processes every five shards, which does not
count against it. It writes no EXIF, and uses the best of --threads, measured beforehand. capfilt keeps its
defaults, except that robots.txt and rate limits, which img2dataset does not have, are off; it computes the
perceptual hash in addition. The server (benchmarks/parts/image_server.py) is a separate process that takes
CPU from both sides alike; its maximum rate and its CPU time are in the results.

Prints a line per run, and writes benchmarks/results/fetch-<processes>-processes.json or fetch-memory.json.
The last line is one JSON object, with `ratio` to img2dataset.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.parts.fetch_sides import (
    Cost,
    Job,
    make_capfilt_process,
    prepare_capfilt,
    run_capfilt,
    run_img2dataset,
)
from benchmarks.parts.image_server import Server, make_images, serve_images, shuffle
from benchmarks.parts.results import store_report
from capfilt.stages.images.decode import DecodeConfig


def main() -> None:
    """Measure, and write the results."""
    options = parse_options()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        if options.memory:
            report, target = measure_memory(options, Path(folder)), "fetch-memory"
        else:
            report, target = compare(options, Path(folder)), f"fetch-{options.processes}-processes"
    results = {"options": vars(options), "machine": describe_machine(), **report}
    store_report(target, results)
    print(json.dumps({name: value for name, value in report.items() if name not in ("runs", "tuning")}))


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--urls", type=int, default=2000)
    parser.add_argument("--shard", type=int, default=500, help="urls per shard")
    parser.add_argument("--hosts", type=int, default=250, help="number of host addresses")
    parser.add_argument(
        "--sides", type=int, nargs=2, default=(400, 1200), help="range of the longer side of images, pixels"
    )
    parser.add_argument(
        "--size", type=int, default=DecodeConfig.size, help="shorter side of stored images, pixels"
    )
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[8, 32, 128],
        help="thread counts of img2dataset to choose from, per process",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0, help="measure memory, over this number of urls")
    parser.add_argument("--scratch", help="folder for the output of both sides, default: the system's")
    options = parser.parse_args()
    if options.urls % (options.shard * options.processes) and not options.memory:
        parser.error(
            "--urls must be a multiple of --shard x --processes: each process gets the same number of shards"
        )
    return options


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure both sides alternately, in changing order."""
    images = make_images(64, tuple(options.sides))
    with serve_images(images) as server:
        ceiling = server.measure_ceiling(3.0)
        tuning = {
            threads: measure(
                partial(run_img2dataset, threads=threads), options, server, folder / f"tune{threads}", 1
            )
            for threads in options.threads
        }
        threads = max(tuning, key=lambda n: tuning[n]["images_per_second"])
        sides = {"ours": run_capfilt, "img2dataset": partial(run_img2dataset, threads=threads)}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for repeat in range(options.repeats):
            for name in sorted(sides, reverse=bool(repeat % 2)):
                runs[name].append(
                    measure(sides[name], options, server, folder / f"{name}{repeat}", 1 + repeat)
                )
                run = runs[name][-1]
                print(
                    f"{name:12} {run['images_per_second']:8.1f} images/s   "
                    f"{run['cpu_ms_per_image']:6.2f} ms of CPU per image",
                    flush=True,
                )
    rates = {name: statistics.median(run["images_per_second"] for run in each) for name, each in runs.items()}
    ratio = rates["ours"] / rates["img2dataset"]
    print(
        f"median: capfilt {rates['ours']:.1f} images/s, img2dataset {rates['img2dataset']:.1f} "
        f"({threads} threads), ratio {ratio:.2f}; server alone {ceiling:.0f}"
    )
    return {
        "images_per_second": rates,
        "ratio": ratio,
        "img2dataset_threads": threads,
        "server": {
            "images_per_second_alone": ceiling,
            "bytes_per_picture": statistics.mean(map(len, images)),
        },
        "runs": runs,
        "tuning": tuning,
    }


def measure(
    side: Callable[..., Cost], options: argparse.Namespace, server: Server, folder: Path, seed: int
) -> dict[str, float]:
    """One run of one side: its rate, the CPU time of both processes, and the stored bytes."""
    folder.mkdir()
    count = options.urls + options.shard * options.processes  # the first shards warm up the processes
    urls = shuffle(server.urls(count, options.hosts), seed)
    job = Job(folder=folder, urls=tuple(urls), shard=options.shard, hosts=options.hosts, size=options.size)
    before = server.read_stats()
    seconds, cpu_seconds = side(job, options.processes)
    after = server.read_stats()
    tables = [str(p) for p in sorted(folder.rglob("0*.parquet")) if "manifests" not in p.parts]
    found = pq.read_table(tables)
    stored = found["status"].to_pylist().count("success")
    assert stored == found.num_rows == count, f"only {stored} of {count} images are stored in {folder}"
    return {
        "images_per_second": options.urls / seconds,
        "seconds": seconds,
        "cpu_ms_per_image": cpu_seconds / options.urls * 1e3,
        "server_cpu_seconds": after["cpu_seconds"] - before["cpu_seconds"],
        "stored_bytes": sum(p.stat().st_size for p in folder.rglob("*.tar")) / count,
    }


def measure_memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Resident memory of one worker after every shard of small images."""
    with serve_images(make_images(64, (96, 160))) as server:
        urls = server.urls(options.memory, options.hosts)
        job = Job(
            folder=folder, urls=tuple(urls), shard=options.shard, hosts=options.hosts, size=options.size
        )
        prepare_capfilt(job)
        process_shard = make_capfilt_process(job)
        start, resident = time.perf_counter(), []
        for shard in range(job.shard_count):
            process_shard(shard)
            resident.append(read_resident_mb())
    tenth = max(1, len(resident) // 10)
    early, late = (statistics.median(part) for part in (resident[tenth : 2 * tenth], resident[-tenth:]))
    print(
        f"{options.memory} urls in {time.perf_counter() - start:.0f} s: {early:.0f} MB after a tenth, "
        f"{late:.0f} MB at the end, at most {max(resident):.0f} MB"
    )
    return {"resident_mb": resident, "early_mb": early, "late_mb": late, "growth": late / early - 1}


def read_resident_mb() -> float:
    """Resident memory of this process, MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def describe_machine() -> dict[str, Any]:
    """Hardware and versions of the measurement."""
    names = ("img2dataset", "aiohttp", "pillow", "opencv-python-headless", "pyarrow")
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


if __name__ == "__main__":
    main()
