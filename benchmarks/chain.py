"""The chain of a bootstrap on Ray, against the bare loop of its slowest stage.

    python -m benchmarks.chain                          # a tiny model, 2,000 images of shapes
    python -m benchmarks.chain --size base --images 200 --shard 20
    python -m benchmarks.chain --fuse never             # captioner and filter in actors of their own
    python -m benchmarks.chain --actors 1               # one core for the models, the others for the chain

The chain is read → caption → filter → write, from stored images to committed candidates, as Ray runs it on
this machine. The other side is what no chain can beat: as many processes as the slowest stage has actors,
each with its models loaded and the rows of the shards in memory, calling the stage. Both work on the same
shards, in turn. The start of the actors counts on neither side: no shard is read before all have loaded their
models. That of the processes in which Ray reads and writes does count. Without a GPU there are as many actors
as CPUs, which the other stages and Ray need, too. With `--actors 1` the models have one core for themselves
on both sides, as they have a GPU.

`busy` is the share of the time in which the actors of the slowest stage worked on shards, `slowdown` the time
that they took for a shard relative to the bare loop: efficiency = busy / slowdown. `cpu` is the processor
time of the chain by kind of process, and `cpu_of_bare` that of the bare loop: where cores are the limit, the
first over the second says what the chain costs, whatever else the machine does. The last line is one JSON
object with `efficiency`, the median of all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.parts.chain_corpus import BareLoop, build_model, make_corpus
from benchmarks.parts.cpu_meter import CpuMeter
from benchmarks.parts.results import describe_machine, store_report
from capfilt.cluster.board import StatusBoard
from capfilt.cluster.chain.engine import run_chain
from capfilt.cluster.chain.steps import Step, group_steps
from capfilt.cluster.config import ClusterConfig
from capfilt.cluster.session import session
from capfilt.cluster.sizing import Sizing, divide_cluster
from capfilt.models.decoding.config import SamplingConfig
from capfilt.pipeline.nodes.chain import ISOLATION, model_steps
from capfilt.stages.bootstrap.caption import Caption, CaptionConfig
from capfilt.stages.bootstrap.filter import Filter, FilterConfig
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.rows import with_column
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.read import Read, ReadConfig, Unpack
from capfilt.stages.shards.records import decode_commit
from capfilt.stages.shards.write import Provenance, Write, WriteConfig
from capfilt.stages.storage.layout import candidates_shard
from capfilt.stages.storage.store import Store

NODE = "chain"
SHARD = 100
POLL_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of both sides."""

    chain_rows_per_second: float
    bare_rows_per_second: float
    efficiency: float
    busy: float
    slowdown: float
    start_seconds: float
    """From the call of Ray until all actors have loaded their models."""
    cpu: dict[str, float]
    cpu_of_bare: float


class GatedRead(Read):
    """Reads shards once a file exists, so that no shard is begun before all actors have started."""

    def __init__(self, config: ReadConfig, gate: str) -> None:
        super().__init__(config)
        self.gate = gate

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """Like `Read.shardwise`, after the file has been made."""
        while not os.path.exists(self.gate):
            time.sleep(POLL_S)
        return super().shardwise(batch)


class Chain:
    """The chain over the shards of a corpus.

    Args:
        store: the run directory with the corpus.
        checkpoint: of captioner and filter.
        options: of the command line.
    """

    def __init__(self, store: Store, checkpoint: str, shards: int, options: argparse.Namespace) -> None:
        self.store, self.shards, self.options = store, shards, options
        batch = options.batch_size
        sampling = SamplingConfig(min_new_tokens=0, max_new_tokens=options.tokens)
        generate = CaptionConfig(prompt="", sampling=sampling, batch_size=batch)
        model = ModelSource(checkpoint=checkpoint, digest="benchmark")
        self.caption = partial(Caption, generate, model)
        self.judge = partial(Filter, FilterConfig(batch_size=batch), model)
        self.provenance = Provenance(
            captioner="benchmark",
            filter="benchmark",
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            thresholds=FilterConfig().numbers,
        )

    def steps(self, sizing: Sizing, number: int, gate: str) -> list[Step]:
        """The steps, which write the candidates of a round."""
        read = partial(GatedRead, ReadConfig(run_dir=self.store), gate)
        write = WriteConfig(
            run_dir=self.store, round=number, round_fingerprint="benchmark", provenance=self.provenance
        )
        return [
            Step(name="read", make=read, kind="read", rowwise=Unpack, isolation=ISOLATION),
            *model_steps(self.caption, self.judge, sizing),
            Step(name="write", make=partial(Write, write), kind="write", rowwise=Pack, isolation=ISOLATION),
        ]

    def run(self, sizing: Sizing, number: int, gate: Path) -> tuple[float, float, dict[str, float]]:
        """Run the chain; seconds of its start, and from then to the last commit, and its processor time."""
        board = StatusBoard()
        status = board.for_node(NODE)
        steps = [
            replace(step, node_status=status, limits=sizing.limits)
            for step in self.steps(sizing, number, str(gate))
        ]
        actors = {step.name: step.actors for step in steps if step.actors}
        opened: list[tuple[float, CpuMeter]] = []

        def open_gate() -> None:
            while board.read().get(NODE, {}).get("started") != actors:
                time.sleep(POLL_S)
            opened.append((time.perf_counter(), CpuMeter()))
            gate.touch()

        waiting = threading.Thread(target=open_gate)
        begun = time.perf_counter()
        waiting.start()
        items = [{"source": "web", "shard": shard} for shard in range(self.shards)]
        done = sum(1 for _ in run_chain(items, steps, name=NODE))
        ended = time.perf_counter()
        waiting.join()
        ((start, meter),) = opened
        assert done == self.shards, f"{self.shards - done} shards failed"
        return start - begun, ended - start, meter.stop()

    def stage_seconds(self, number: int) -> dict[str, float]:
        """Seconds of all shards by stage, from the commit records of a round."""
        total: dict[str, float] = {}
        for shard in range(self.shards):
            record = decode_commit(self.store.read(candidates_shard(number, "web", shard).record))
            for stage, seconds in record.seconds.items():
                total[stage] = total.get(stage, 0.0) + seconds
        return total


def main() -> None:
    """Measures, and stores the result."""
    options = parse_options()
    with tempfile.TemporaryDirectory() as folder, session(ClusterConfig(address="local")):
        store = Store(f"{folder}/run")
        tables = make_corpus(store, Path(folder), options.images, options.shard)
        checkpoint = build_model(Path(folder) / "model", options.size)
        sizing = divide_cluster(ClusterConfig(fuse=options.fuse))
        if options.actors is not None:
            caption, judge = (
                replace(pool, actors=options.actors) for pool in (sizing.caption, sizing.filter)
            )
            sizing = replace(sizing, caption=caption, filter=judge)
        chain = Chain(store, checkpoint, len(tables), options)
        rounds = []
        for number in range(1, options.repeats + 1):
            rounds.append(measure(chain, sizing, tables, number, Path(folder)))
            print(json.dumps(asdict(rounds[-1])), flush=True)
    numbers = [{name: n for name, n in asdict(each).items() if name != "cpu"} for each in rounds]
    median = {name: round(statistics.median(each[name] for each in numbers), 3) for name in numbers[0]}
    result = {"options": vars(options), "actors": sizing.caption.actors, **median}
    machine = describe_machine("cuda" if sizing.gpus else "cpu")
    name = f"chain-{options.size}" + ("" if sizing.split.fused else "-separate")
    name += "" if options.actors is None else f"-{options.actors}-actor"
    name += "" if options.shard == SHARD else f"-shards-of-{options.shard}"
    store_report(name, {**result, "machine": machine, "rounds": [asdict(each) for each in rounds]})
    print(json.dumps(result))


def parse_options() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=["tiny", "base"], default="tiny")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--shard", type=int, default=SHARD, help="images of a shard")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8, help="most tokens of a caption")
    parser.add_argument("--fuse", choices=["auto", "never"], default="auto")
    parser.add_argument(
        "--actors", type=int, help="processes with models; as the chain is sized if not given"
    )
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def measure(chain: Chain, sizing: Sizing, tables: Sequence[pa.Table], number: int, folder: Path) -> Round:
    """One round: the chain, then the bare loop of its slowest stage."""
    start, took, cpu = chain.run(sizing, number, folder / f"gate.{number}")
    rows = sum(table.num_rows for table in tables)
    seconds = chain.stage_seconds(number)
    loops = list(bare_loops(chain, sizing, tables, folder))
    group, loop = max(loops, key=lambda each: each[1].seconds)
    actors = sizing.caption.actors if "caption" in group else sizing.filter.actors
    worked = sum(seconds[stage] for stage in group)
    return Round(
        chain_rows_per_second=round(rows / took, 2),
        bare_rows_per_second=round(rows / loop.seconds, 2),
        efficiency=round(loop.seconds / took, 4),
        busy=round(worked / (actors * took), 4),
        slowdown=round(worked / (actors * loop.seconds), 4),
        start_seconds=round(start, 1),
        cpu=cpu,
        cpu_of_bare=round(loop.cpu_seconds, 2),
    )


def bare_loops(
    chain: Chain, sizing: Sizing, tables: Sequence[pa.Table], folder: Path
) -> Iterator[tuple[tuple[str, ...], BareLoop]]:
    """(names of the stages, their bare loop) of each kind of process with models."""
    for group in group_steps(model_steps(chain.caption, chain.judge, sizing)):
        names = tuple(step.name for step in group)
        makes: list[Callable[[], Any]] = [step.make for step in group]
        given = tables if names[0] == "caption" else [with_texts(table) for table in tables]
        threads = max(1, int(group[0].cpus))
        yield names, BareLoop.run(get_context("spawn"), makes, given, group[0].actors, threads, folder)


def with_texts(table: pa.Table) -> pa.Table:
    """Rows whose web texts also stand for captions: the filter alone has as many texts to judge."""
    texts = [[*of_row, *of_row][:2] for of_row in table["texts"].to_pylist()]
    return with_column(table, "texts", texts, table.schema.field("texts").type)


if __name__ == "__main__":
    main()
