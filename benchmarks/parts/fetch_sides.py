"""The two sides of `benchmarks.fetch`: capfilt's read → fetch → write, and img2dataset's `Downloader`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.parts.image_server import addresses
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.store import Store

QUALITY = 92
KEY_DIGITS = 5

ProcessShard = Callable[[int], None]
"""Processes one shard, given its number."""
Cost = tuple[float, float]
"""Wall-clock seconds, and CPU seconds of all worker processes."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Input of both sides."""

    folder: Path
    urls: tuple[str, ...]
    shard: int
    hosts: int
    size: int

    @property
    def shard_count(self) -> int:
        return len(self.urls) // self.shard


def make_capfilt_process(job: Job) -> ProcessShard:
    """Read → fetch → write of one process."""
    run_dir = Store(str(job.folder))
    fetch = FetchConfig(
        allow_private=tuple(addresses(job.hosts)),
        robots=False,  # img2dataset has neither robots.txt nor rate limits
        per_host_per_second=None,
        image=DecodeConfig(min_side=64, size=job.size, quality=QUALITY),
    )
    stages = (
        Read(ReadConfig(run_dir=run_dir)),
        Fetch(fetch),
        Write(WriteConfig(run_dir=run_dir, corpus_fingerprints={"web": "benchmark"})),
    )

    def process_shard(shard: int) -> None:
        batch = pa.Table.from_pylist([{"source": "web", "shard": shard}])
        for stage in stages:
            batch = stage(batch)

    return process_shard


def prepare_capfilt(job: Job) -> None:
    """Write the manifest and its index."""
    manifest = job.folder / "urls.parquet"
    pq.write_table(
        pa.table({"url": list(job.urls), "caption": [f"image {i}" for i in range(len(job.urls))]}), manifest
    )
    rows = ManifestConfig(manifest=str(manifest), shard_size=job.shard)
    build_index(rows, Store(str(job.folder / "manifests/web")), source="web")


def make_img2dataset_process(job: Job, *, threads: int) -> ProcessShard:
    """img2dataset's `Downloader` of one process, with the settings nearest to those of capfilt."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else importing it looks for updates online
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

    def process_shard(shard: int) -> None:
        succeeded, _ = download((shard, str(job.folder / f"{shard}.feather")))
        assert succeeded, f"img2dataset failed on shard {shard}"

    return process_shard


def prepare_img2dataset(job: Job) -> None:
    """Write the feather files that its reader would write."""
    for shard in range(job.shard_count):
        urls = job.urls[shard * job.shard : (shard + 1) * job.shard]
        table = pa.table({"caption": [f"image {i}" for i in range(len(urls))], "url": list(urls)})
        with pa.ipc.new_file(str(job.folder / f"{shard}.feather"), table.schema) as writer:
            writer.write_table(table)


def run_capfilt(job: Job, processes: int) -> Cost:
    """Run the job with capfilt."""
    prepare_capfilt(job)
    return run_pool(partial(make_capfilt_process, job), job.shard_count, processes)


def run_img2dataset(job: Job, processes: int, *, threads: int) -> Cost:
    """Run the job with img2dataset."""
    prepare_img2dataset(job)
    return run_pool(partial(make_img2dataset_process, job, threads=threads), job.shard_count, processes)


def run_pool(make: Callable[[], ProcessShard], shards: int, processes: int) -> Cost:
    """Process all shards; the measurement starts when every process is ready."""
    with ProcessPoolExecutor(processes, get_context("spawn"), start_process, (make,)) as pool:
        # Each process takes one of these sleeps, after its imports; its first shard is not counted.
        list(pool.map(time.sleep, [2.0] * processes))
        list(pool.map(time_shard, range(processes)))
        start = time.perf_counter()
        cpu_seconds = sum(pool.map(time_shard, range(processes, shards)))
        return time.perf_counter() - start, cpu_seconds


_process_shard: ProcessShard
"""The side that this process of the pool runs."""


def start_process(make: Callable[[], ProcessShard]) -> None:
    """Build a side in a process of the pool."""
    global _process_shard
    _process_shard = make()


def time_shard(number: int) -> float:
    """Process a shard with the side of this process; return the CPU seconds."""
    start = time.process_time()
    _process_shard(number)
    return time.process_time() - start
