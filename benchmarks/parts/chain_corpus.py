"""Images and models of `benchmarks.chain`, and the loop that calls a stage without a chain."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import pyarrow as pa

from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.store import Store

TEXTS = ["a red circle", "a blue square next to a green star", "two yellow triangles", "free shipping"]
START_SECONDS = 600
IMAGE_SIDE = {"tiny": 32, "base": 384}


def make_corpus(store: Store, folder: Path, images: int, shard: int) -> list[pa.Table]:
    """Store images of shapes as the corpus of a run directory; returns the rows of each shard.

    Args:
        folder: for the images as they come.
        shard: images of a shard.
    """
    make_shapes(ShapesConfig(human=1, web=images, test=1, image_size=256), str(folder / "shapes"))
    manifest = ManifestConfig(manifest=str(folder / "shapes/web/manifest.parquet"), shard_size=shard)
    index = build_index(manifest, store / "manifests/web", source="web")
    fetch = Fetch(FetchConfig(image_root=str(folder / "shapes/web"), image=DecodeConfig(min_side=16)))
    stages = (
        Read(ReadConfig(run_dir=store, manifests={"web": manifest})),
        fetch,
        Write(WriteConfig(run_dir=store, corpus_fingerprints={"web": "benchmark"})),
    )
    items = [pa.Table.from_pylist([{"source": "web", "shard": number}]) for number in range(index.shards)]
    for item in items:
        for stage in stages:
            item = stage(item)
    read = Read(ReadConfig(run_dir=store))
    return [read(item) for item in items]


def build_model(folder: Path, size: str) -> str:
    """Save a model with random weights; returns its address."""
    import torch

    from capfilt.models.checkpoints.load import save_checkpoint
    from capfilt.models.config import MedConfig, TextConfig, VisionConfig
    from capfilt.models.network.med import MED
    from capfilt.models.network.tokenizer import Tokenizer

    torch.manual_seed(0)
    tokenizer = Tokenizer.train(TEXTS, vocab_size=200)
    config = MedConfig(vision=VisionConfig(image_size=IMAGE_SIDE["base"]))
    if size == "tiny":
        vision = VisionConfig(image_size=IMAGE_SIDE["tiny"], patch_size=8, width=64, depth=2, heads=2)
        text = TextConfig(vocab_size=200, width=64, depth=2, heads=2, ffn=128, max_positions=64)
        config = MedConfig(vision=vision, text=text, embed_dim=32)
    folder.mkdir(parents=True)
    save_checkpoint(str(folder), MED(config), tokenizer, {})
    return str(folder)


@dataclass(frozen=True)
class BareLoop:
    """Processes that call a stage, or stages one after another, on shards in memory."""

    seconds: float
    """From the moment at which all have loaded their models until the last shard is done."""
    cpu_seconds: float
    """Processor time of all of them meanwhile."""

    @classmethod
    def run(
        cls,
        context: SpawnContext,
        makes: Sequence[Callable[[], Any]],
        tables: Sequence[pa.Table],
        processes: int,
        threads: int,
        folder: Path,
    ) -> BareLoop:
        """Run them.

        Args:
            makes: makers of the stages.
            tables: the rows of each shard.
            threads: torch threads of a process, as Ray sets them.
            folder: for the rows, which each process loads before it begins.
        """
        path = str(folder / "rows.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)
        ready, taken = context.Barrier(processes + 1, timeout=START_SECONDS), context.Value("i", 0)
        ended, spent = context.Array("d", processes), context.Array("d", processes)
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(threads)
        arguments = (list(makes), path, len(tables[0]), ready, taken, (ended, spent))
        workers = [context.Process(target=_work, args=(n, *arguments)) for n in range(processes)]
        for worker in workers:
            worker.start()
        ready.wait()
        start = time.perf_counter()
        for worker in workers:
            worker.join()
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
        assert all(worker.exitcode == 0 for worker in workers), "a process of the bare loop failed"
        return cls(max(ended) - start, sum(spent))


def _work(
    number: int,
    makes: list[Callable[[], Any]],
    path: str,
    shard: int,
    ready: Any,
    taken: Any,
    measured: tuple[Any, Any],
) -> None:
    """Main function of a process: take shards until none is left.

    Args:
        measured: receives the time of the end, and the processor time.
    """
    with pa.OSFile(path) as source:
        table = pa.ipc.open_file(source).read_all()
    stages = [make() for make in makes]
    ready.wait()
    before = time.process_time()
    while True:
        with taken.get_lock():
            start = taken.value
            taken.value += shard
        if start >= table.num_rows:
            break
        batch = table.slice(start, shard)
        for stage in stages:
            batch = stage(batch)
    measured[0][number] = time.perf_counter()  # a clock of the whole machine
    measured[1][number] = time.process_time() - before
