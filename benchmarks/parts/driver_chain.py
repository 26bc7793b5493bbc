"""The engine of a chain by itself: real steps on an embedded Ray, with stages that do nothing; and Ray Data
without it."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from benchmarks.index import peak_memory
from capfilt.cluster.board import StatusBoard
from capfilt.cluster.chain.engine import MAX_RESTARTS, MAX_TASK_RETRIES, chain_context, run_chain
from capfilt.cluster.chain.steps import Step
from capfilt.cluster.config import ClusterConfig
from capfilt.cluster.session import session
from capfilt.pipeline.nodes.chain import ISOLATION, mark_first_steps, with_step_logging
from capfilt.stages.rows import ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.write import WRITTEN_SCHEMA
from capfilt.stages.status import PENDING

ROWS = 10
ACTORS = ("fetch", "models")
"""Operators on actors."""
PER_SHARD = ("milliseconds_per_shard", "driver_cpu_milliseconds_per_shard")
WARM_UP = 200
"""Shards before the clock starts: Ray starts its processes meanwhile."""


class ReadNothing:
    """Gives rows without reading any."""

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """The part of the reader that is not row by row."""
        return self(batch)

    def __call__(self, batch: pa.Table) -> pa.Table:
        item = batch.to_pylist()[0]
        rows = [item | {"key": row_key(item["shard"], row), "status": PENDING} for row in range(ROWS)]
        return table_of(rows, ROW_SCHEMA)


class PassOn:
    """A stage on actors."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch


class WriteNothing:
    """Gives the summary of a shard."""

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """The part of the writer that is not row by row."""
        return self(batch)

    def __call__(self, batch: pa.Table) -> pa.Table:
        row = {"source": batch["source"][0].as_py(), "shard": batch["shard"][0].as_py(), "records": "{}"}
        return table_of([row], WRITTEN_SCHEMA)


def measure_chain(shards: int, repeats: int) -> dict[str, Any]:
    """The chain of a bootstrap which downloads, in turn with Ray Data alone, which passes the same tables
    through as many operators: tasks that read and write, an actor that fetches, and one that captions and
    filters.

    Returns:
        `ours` and `ray_data` (medians, see `measure_execution`), and `ours_beyond_ray_data`, the median
        difference of two executions in succession, in milliseconds a shard.
    """
    items = [{"source": "web", "shard": shard} for shard in range(WARM_UP + shards)]
    found: dict[str, list[dict[str, float]]] = {"ours": [], "ray_data": []}
    with session(ClusterConfig()):
        steps = chain_steps()
        for _ in range(repeats):
            found["ours"].append(measure_execution(run_chain(items, steps, segment=len(items)), len(items)))
            found["ray_data"].append(measure_execution(run_ray_data(items), len(items)))
    return {
        "shards": shards,
        "repeats": repeats,
        "ray": ray.__version__,
        **{side: median_of(runs) for side, runs in found.items()},
        "ours_beyond_ray_data": median_of(
            [
                {name: ours[name] - theirs[name] for name in PER_SHARD}
                for ours, theirs in zip(found["ours"], found["ray_data"], strict=True)
            ]
        ),
    }


def chain_steps() -> list[Step]:
    """The steps, as the driver of a run makes them."""
    status = StatusBoard().for_node("bootstrap.1")
    of_row: dict[str, Any] = {"rowwise": PassOn, "isolation": ISOLATION}
    on_actor: dict[str, Any] = {"make": PassOn, "actors": 1, "cpus": 0.25, "isolation": ISOLATION}
    chain = [
        Step(name="read", make=ReadNothing, kind="read", **of_row),
        Step(name="fetch", **on_actor),
        Step(name="caption", **on_actor),
        Step(name="filter", fused=True, **on_actor),
        Step(name="write", make=WriteNothing, kind="write", **of_row),
    ]
    return mark_first_steps(with_status(step, status) for step in chain)


def run_ray_data(items: list[dict[str, Any]]) -> Iterator[Any]:
    """The stages without anything of ours around them, with the settings of the chain. The retries also keep
    Ray Data from joining the reader and the first actor."""
    common = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": Step.cpus}
    task: dict[str, Any] = common | {"compute": TaskPoolStrategy(), "max_retries": MAX_TASK_RETRIES}
    restarts = {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_TASK_RETRIES}
    with DataContext.current(chain_context(len(items))):
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        dataset = dataset.map_batches(ReadNothing(), **task)
        for _ in ACTORS:
            pool: dict[str, Any] = common | restarts | {"compute": ActorPoolStrategy(size=1)}
            dataset = dataset.map_batches(PassOn, **pool)
        dataset = dataset.map_batches(WriteNothing(), **task)
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from batch.to_pylist()


def measure_execution(results: Iterable[Any], shards: int) -> dict[str, float]:
    """Time for each shard from the first one after `WARM_UP` to the last, time of the driver's CPU, and the
    memory by which the driver grows, of one execution of Ray Data."""
    began = warm = Moment.now()
    first = 0.0
    seen = 0
    for seen, _ in enumerate(results, 1):
        if seen == 1:
            first = time.perf_counter() - began.wall
        if seen == WARM_UP:
            warm = Moment.now()
    end = Moment.now()
    assert seen == shards, "every shard came back"
    timed = shards - WARM_UP
    return {
        "milliseconds_per_shard": (end.wall - warm.wall) / timed * 1e3,
        "driver_cpu_milliseconds_per_shard": (end.cpu - warm.cpu) / timed * 1e3,
        "driver_kb_per_shard": (end.memory - warm.memory) / timed * 1e6,
        "seconds_to_first_shard": first,
    }


def median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: round(median(run[name] for run in runs), 2) for name in runs[0]}


@dataclass(frozen=True)
class Moment:
    """What this process has used until now."""

    wall: float
    cpu: float
    """Seconds."""
    memory: float
    """GB at most."""

    @classmethod
    def now(cls) -> Moment:
        """This moment."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.perf_counter(), usage.ru_utime + usage.ru_stime, peak_memory())


def with_status(step: Step, status: Any) -> Step:
    """The step as the driver of a run makes it."""
    return replace(with_step_logging(step, "bootstrap.1"), node_status=status)
