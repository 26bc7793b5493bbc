"""The input of a training at 1, 2 and 4 workers, and the seconds of its step.

    python -m benchmarks.train                                     # input, and the step of a tiny model
    python -m benchmarks.train --size base --batch-size 8          # the step of ViT-B/16

Input: shards of random JPEG images of `--image-kb` are written to a local disk. For each number of workers an
embedded Ray runs one reading process per worker, which takes its part of every batch of an epoch from the
feed that all of them share, without decoding it. Counted are the bytes that were read from the disk, by the
counter of the program and by the sizes of the files, and those that each worker has received. A worker's
share is what the files have, divided by the number of workers; before there was a feed, each worker read all.

Step: one optimizer step of a pretraining (ITC + ITM + LM) on random pixels, as `benchmarks.training` measures
it. The last line is one JSON object with hardware and versions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch

from benchmarks import training
from benchmarks.parts.results import describe_machine, store_report
from capfilt.cluster.config import ClusterConfig
from capfilt.cluster.session import session
from capfilt.cluster.training.feed import Feed
from capfilt.stages.pairs.draw import DrawConfig
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig
from capfilt.stages.pairs.samples import Division, pair_source
from capfilt.stages.pairs.stream import SampleStream, StreamConfig
from capfilt.stages.rows import ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.store import Store

WORKERS = (1, 2, 4)
EPOCHS = 3
"""Epochs that count; one before them starts the processes of the readers."""
WINDOW_SHARDS = 4
DATA = (".tar", ".parquet")


def main() -> None:
    """Measure, store and print."""
    options = parse_options()
    report: dict[str, Any] = {
        "options": vars(options),
        "machine": describe_machine(options.device) | {"ray": version("ray"), "pyarrow": pa.__version__},
        "step": measure_step(options),
    }
    with tempfile.TemporaryDirectory() as folder, session(ClusterConfig(address="local")):
        shards = write_shards(Path(folder), options)
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.suffix in DATA)
        report["stored_mb"] = stored / 1e6
        report["input"] = {
            str(workers): measure_input(folder, shards, workers, stored) for workers in WORKERS
        }
    store_report(f"train-{options.device}-{options.size}", report)
    print(json.dumps(report))


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--rows", type=int, default=200, help="images of a shard")
    parser.add_argument("--image-kb", type=int, default=60)
    parser.add_argument("--size", choices=training.SIZES, default="tiny")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, default=16, help="pairs of a step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    options = parser.parse_args()
    options.threads = None
    return options


def write_shards(folder: Path, options: argparse.Namespace) -> tuple[ShardRef, ...]:
    """Corpus shards with random bytes as images, one text each."""
    store, generator = Store(str(folder)), random.Random(0)
    write = Write(WriteConfig(run_dir=store, corpus_fingerprints={"web": "benchmark"}))
    for shard in range(options.shards):
        rows = []
        for number in range(options.rows):
            image = b"\xff\xd8\xff" + generator.randbytes(options.image_kb * 1000)
            text = f"a text of image {number} in shard {shard}, about as long as texts of the web are"
            rows.append(
                {
                    "key": row_key(shard, number),
                    "source": "web",
                    "shard": shard,
                    "url": f"https://example.org/{shard}/{number}.jpg",
                    "caption": text,
                    "texts": [text],
                    "status": SUCCESS,
                    "sha256": hashlib.sha256(image).hexdigest(),
                    "image": image,
                }
            )
        write(table_of(rows, ROW_SCHEMA))
    return tuple(ShardRef("web", shard, "web") for shard in range(options.shards))


def measure_input(folder: str, shards: tuple[ShardRef, ...], workers: int, stored: int) -> dict[str, Any]:
    """Seconds and bytes of an epoch that so many workers read together."""
    feed = Feed()
    try:
        reading = [read_epochs.remote(feed, folder, shards, rank, workers) for rank in range(workers)]
        results = ray.get(reading)
    finally:
        feed.close()
    # The slowest worker ends the epoch.
    seconds = [max(of_epoch) for of_epoch in zip(*(each["seconds"] for each in results), strict=True)]
    samples = sum(each["samples"] for each in results)
    read, share = results[0]["read"], stored / workers
    return {
        "seconds_per_epoch": round(statistics.median(seconds), 3),
        "samples_per_second": round(samples / statistics.median(seconds), 1),
        "share_mb": round(share / 1e6, 3),
        "read_mb_per_worker": round(read / 1e6, 3),
        "read_over_share": round(read / share, 4),
        "received_mb": [round(each["received"] / 1e6, 3) for each in results],
        "former_read_over_share": workers,
    }


@ray.remote(num_cpus=0)
def read_epochs(
    feed: Feed, folder: str, shards: tuple[ShardRef, ...], rank: int, workers: int
) -> dict[str, Any]:
    """What one worker reads: seconds of each epoch, and samples and bytes of the last one."""
    source = pair_source("training", PairsConfig(run_dir=Store(folder)), DrawConfig(seed=0))
    division = Division(batch_size=8 * workers, workers=workers)
    config = StreamConfig(seed=0, window_shards=WINDOW_SHARDS, division=division)
    stream = SampleStream(shards, source, lambda window: feed.request(window, rank), config)
    seconds: list[float] = []
    epoch, samples, start, last = 0, 0, time.perf_counter(), None
    for batch in stream.batches():
        if batch.position.epoch > epoch:
            now = time.perf_counter()
            seconds.append(now - start)
            if len(seconds) > EPOCHS:
                break
            epoch, samples, start = batch.position.epoch, 0, now
        samples, last = samples + len(batch.samples), batch.epoch_bytes
    assert last is not None, "an epoch has batches"
    return {"seconds": seconds[1:], "samples": samples, "read": last.read, "received": last.received}


def measure_step(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an optimizer step."""
    torch.manual_seed(0)
    tokenizer = training.make_tokenizer()
    med, image_size = training.make_med(options.size, options.image_size, tokenizer)
    variant = training.Variant(med, tokenizer, options)
    batches = [training.make_batch(options.batch_size, image_size, seed) for seed in range(options.steps + 1)]
    variant.step(batches[0])
    variant.seconds = [variant.step(batch) for batch in batches[1:]]
    return variant.result()


if __name__ == "__main__":
    main()
