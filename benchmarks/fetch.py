"""Fetching, images per second: ours against img2dataset, on the same urls, cores and settings.

    python -m benchmarks.fetch                      # both sides, taking turns
    python -m benchmarks.fetch --memory 50000       # ours alone: resident memory after every shard

Both sides download, check, decode, bring the shorter side to --size, encode as JPEG, hash (sha256) and write tar and
Parquet, one process per core, shard after shard: ours is read → fetch → write as the engine runs them, img2dataset its
`Downloader` with webdataset output. Pools are the same and are warm before the clock starts (img2dataset's own pool
imports for seconds and starts its processes anew every five shards; that is not counted against it), it writes no
EXIF, and of --threads the number that suits it best is chosen beforehand. Ours keeps its defaults but for the manners
that the peer lacks (robots.txt, rates), and makes the perceptual hash besides. Neither goes through Ray. The server
(benchmarks/picture_server.py) is a process of its own and takes CPU from both alike; its ceiling and its CPU are
stored. Prints a line per run, and stores everything in benchmarks/results/fetch-<processes>-processes.json or
fetch-memory.json.
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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.picture_server import Server, addresses, make_pictures, serve_pictures, shuffled
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.store import Store

RESULTS = Path(__file__).parent / "results"
QUALITY = 92
KEY_DIGITS = 5

Shard = Callable[[int], None]
"""Does one shard, by its number."""
Spent = tuple[float, float]
"""Seconds by the clock, and of the CPU in all worker processes."""


def main() -> None:
    """Measures, and stores the result."""
    options = parse()
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        if options.memory:
            report, target = memory(options, Path(folder)), "fetch-memory.json"
        else:
            report, target = compare(options, Path(folder)), f"fetch-{options.processes}-processes.json"
    stored = {"options": vars(options), "machine": machine(), **report}
    (RESULTS / target).write_text(json.dumps(stored, indent=2) + "\n")
    print(f"stored in benchmarks/results/{target}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--urls", type=int, default=2000)
    parser.add_argument("--shard", type=int, default=500, help="urls per shard")
    parser.add_argument("--hosts", type=int, default=250, help="addresses the urls are spread over")
    parser.add_argument(
        "--sides", type=int, nargs=2, default=(400, 1200), help="longer side of pictures, pixels"
    )
    parser.add_argument("--size", type=int, default=DecodeConfig.size, help="shorter side of stored pictures")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[8, 32, 128], help="img2dataset's, per process"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0, help="urls of a memory run")
    parser.add_argument("--scratch", help="folder for what both sides write, by default the system's")
    options = parser.parse_args()
    if options.urls % (options.shard * options.processes) and not options.memory:
        parser.error("--urls must be a multiple of --shard x --processes: every process has as many shards")
    return options


# ---- the two sides


@dataclass(frozen=True, kw_only=True)
class Job:
    """What both sides are given."""

    folder: Path
    urls: tuple[str, ...]
    shard: int
    hosts: int
    size: int

    @property
    def shards(self) -> int:
        return len(self.urls) // self.shard


def ours(job: Job) -> Shard:
    """Read → fetch → write of one process."""
    run = Store(str(job.folder))
    fetch = FetchConfig(
        allow_private=tuple(addresses(job.hosts)),
        robots=False,  # the peer has no such manners
        per_host_per_second=None,
        image=DecodeConfig(min_side=64, size=job.size, quality=QUALITY),
    )
    stages = (
        Read(ReadConfig(run_dir=run)),
        Fetch(fetch),
        Write(WriteConfig(run_dir=run, corpus_fingerprints={"web": "benchmark"})),
    )

    def do(shard: int) -> None:
        batch = pa.Table.from_pylist([{"source": "web", "shard": shard}])
        for stage in stages:
            batch = stage(batch)

    return do


def prepare_ours(job: Job) -> None:
    """The index that the reader reads."""
    manifest = job.folder / "urls.parquet"
    pq.write_table(
        pa.table({"url": list(job.urls), "caption": [f"picture {i}" for i in range(len(job.urls))]}), manifest
    )
    rows = ManifestConfig(manifest=str(manifest), shard_size=job.shard)
    build_index(rows, Store(str(job.folder / "corpus/web/index")), source="web")


def theirs(job: Job, *, threads: int) -> Shard:
    """img2dataset's `Downloader` of one process, with the settings nearest to ours."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the network for its newest version
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    resizer = Resizer(
        image_size=job.size,
        resize_mode="keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=QUALITY,
        min_image_size=64,
        max_aspect_ratio=DecodeConfig.max_aspect,
    )
    download = Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=resizer,
        thread_count=threads,
        save_caption=True,
        extract_exif=False,
        output_folder=str(job.folder),
        column_list=["caption", "url"],
        timeout=10,
        number_sample_per_shard=job.shard,
        oom_shard_count=KEY_DIGITS,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=2,
        user_agent_token=None,
        disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
    )

    def do(shard: int) -> None:
        done, _ = download((shard, str(job.folder / f"{shard}.feather")))
        assert done, f"img2dataset failed on shard {shard}"

    return do


def prepare_theirs(job: Job) -> None:
    """The feather files that its reader would have written."""
    for shard in range(job.shards):
        urls = job.urls[shard * job.shard : (shard + 1) * job.shard]
        table = pa.table({"caption": [f"picture {i}" for i in range(len(urls))], "url": list(urls)})
        with pa.ipc.new_file(str(job.folder / f"{shard}.feather"), table.schema) as writer:
            writer.write_table(table)


# ---- measuring

_shard: Shard
"""What this process of the pool does with a shard number."""


def start_process(make: Callable[[], Shard]) -> None:
    """Builds a side in a process of the pool."""
    global _shard
    _shard = make()


def do_shard(number: int) -> float:
    """Does a shard with the side of this process; returns the CPU seconds it took."""
    start = time.process_time()
    _shard(number)
    return time.process_time() - start


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides in turn, the order changed every time."""
    pictures = make_pictures(64, tuple(options.sides))
    with serve_pictures(pictures) as server:
        ceiling = server.ceiling(3.0)
        tuning = {
            threads: measure(
                partial(run_theirs, threads=threads), options, server, folder / f"tune{threads}", 1
            )
            for threads in options.threads
        }
        threads = max(tuning, key=lambda n: tuning[n]["images_per_second"])
        sides = {"ours": run_ours, "img2dataset": partial(run_theirs, threads=threads)}
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
    rates = {name: statistics.median(run["images_per_second"] for run in of) for name, of in runs.items()}
    ratio = rates["ours"] / rates["img2dataset"]
    print(
        f"median: ours {rates['ours']:.1f} images/s, img2dataset {rates['img2dataset']:.1f} ({threads} threads), "
        f"ratio {ratio:.2f}; the server alone {ceiling:.0f}"
    )
    return {
        "images_per_second": rates,
        "ratio": ratio,
        "img2dataset_threads": threads,
        "server": {
            "images_per_second_alone": ceiling,
            "bytes_per_picture": statistics.mean(map(len, pictures)),
        },
        "runs": runs,
        "tuning": tuning,
    }


def measure(
    side: Callable[..., Spent], options: argparse.Namespace, server: Server, folder: Path, seed: int
) -> dict[str, float]:
    """One run of one side: its rate, the server's part of the CPU, and what was stored."""
    folder.mkdir()
    count = options.urls + options.shard * options.processes  # the first shards warm the processes up
    urls = shuffled(server.urls(count, options.hosts), seed)
    job = Job(folder=folder, urls=tuple(urls), shard=options.shard, hosts=options.hosts, size=options.size)
    before = server.used()
    seconds, cpu_seconds = side(job, options.processes)
    after = server.used()
    found = pq.read_table([str(p) for p in sorted(folder.rglob("0*.parquet")) if p.parent.name != "index"])
    stored = found["status"].to_pylist().count("success")
    assert stored == found.num_rows == count, f"{stored} of {count} pictures are stored in {folder}"
    return {
        "images_per_second": options.urls / seconds,
        "seconds": seconds,
        "cpu_ms_per_image": cpu_seconds / options.urls * 1e3,
        "server_cpu_seconds": after["cpu_seconds"] - before["cpu_seconds"],
        "stored_bytes": sum(p.stat().st_size for p in folder.rglob("*.tar")) / count,
    }


def run_ours(job: Job, processes: int) -> Spent:
    """What ours takes for the job."""
    prepare_ours(job)
    return run_pool(partial(ours, job), job.shards, processes)


def run_theirs(job: Job, processes: int, *, threads: int) -> Spent:
    """What img2dataset takes for the job."""
    prepare_theirs(job)
    return run_pool(partial(theirs, job, threads=threads), job.shards, processes)


def run_pool(make: Callable[[], Shard], shards: int, processes: int) -> Spent:
    """What all shards take, from when every process is ready."""
    with ProcessPoolExecutor(processes, get_context("spawn"), start_process, (make,)) as pool:
        # A process takes the next nap only when it is through with its imports; its first shard is not counted.
        list(pool.map(time.sleep, [2.0] * processes))
        list(pool.map(do_shard, range(processes)))
        start = time.perf_counter()
        cpu_seconds = sum(pool.map(do_shard, range(processes, shards)))
        return time.perf_counter() - start, cpu_seconds


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Resident memory of one worker after every shard of small pictures."""
    with serve_pictures(make_pictures(64, (96, 160))) as server:
        urls = server.urls(options.memory, options.hosts)
        job = Job(
            folder=folder, urls=tuple(urls), shard=options.shard, hosts=options.hosts, size=options.size
        )
        prepare_ours(job)
        do = ours(job)
        start, resident = time.perf_counter(), []
        for shard in range(job.shards):
            do(shard)
            resident.append(resident_mb())
    tenth = max(1, len(resident) // 10)
    early, late = (statistics.median(part) for part in (resident[tenth : 2 * tenth], resident[-tenth:]))
    print(
        f"{options.memory} urls in {time.perf_counter() - start:.0f} s: {early:.0f} MB after a tenth, {late:.0f} MB at "
        f"the end, at most {max(resident):.0f} MB"
    )
    return {"resident_mb": resident, "early_mb": early, "late_mb": late, "growth": late / early - 1}


def resident_mb() -> float:
    """Resident memory of this process, MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = ("img2dataset", "aiohttp", "pillow", "opencv-python-headless", "pyarrow")
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


if __name__ == "__main__":
    main()
