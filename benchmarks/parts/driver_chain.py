"""The engine of a chain by itself: real steps on an embedded Ray, with stages that do nothing."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import ray

from benchmarks.index import peak_memory
from capfilt.cluster.board import StatusBoard
from capfilt.cluster.chain.engine import run_chain
from capfilt.cluster.chain.steps import Step
from capfilt.cluster.config import ClusterConfig
from capfilt.cluster.session import session
from capfilt.pipeline.nodes.chain import ISOLATION, mark_first_steps, with_step_logging
from capfilt.stages.rows import ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.write import WRITTEN_SCHEMA
from capfilt.stages.status import PENDING

ROWS = 10
WARM_UP = 200
"""Shards before the clock starts: Ray starts its processes meanwhile."""


class ReadNothing:
    """Gives rows without reading any."""

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

    def __call__(self, batch: pa.Table) -> pa.Table:
        row = {"source": batch["source"][0].as_py(), "shard": batch["shard"][0].as_py(), "records": "{}"}
        return table_of([row], WRITTEN_SCHEMA)


def measure_chain(shards: int) -> dict[str, Any]:
    """Time for each shard from the first one after `WARM_UP` to the last, time of the driver's CPU, and the
    memory by which the driver grows. All shards are one execution of Ray Data.

    The chain is that of a bootstrap which downloads: tasks that read and write, and an actor each that
    fetches, captions and filters.
    """
    with session(ClusterConfig()):
        status = StatusBoard().for_node("bootstrap.1")
        chain = [
            Step(name="read", make=ReadNothing, kind="read", isolation=ISOLATION),
            *(
                Step(name=name, make=PassOn, actors=1, cpus=0.25, isolation=ISOLATION)
                for name in ("fetch", "caption", "filter")
            ),
            Step(name="write", make=WriteNothing, kind="write", isolation=ISOLATION),
        ]
        steps = mark_first_steps(with_status(step, status) for step in chain)
        items = [{"source": "web", "shard": shard} for shard in range(WARM_UP + shards)]
        began = Moment.now()
        warm = began
        first = 0.0
        for seen, _ in enumerate(run_chain(items, steps, segment=len(items)), 1):
            if seen == 1:
                first = time.perf_counter() - began.wall
            if seen == WARM_UP:
                warm = Moment.now()
        end = Moment.now()
        assert seen == len(items), "every shard came back"
        return {
            "shards": shards,
            "ray": ray.__version__,
            "milliseconds_per_shard": round((end.wall - warm.wall) / shards * 1e3, 3),
            "driver_cpu_milliseconds_per_shard": round((end.cpu - warm.cpu) / shards * 1e3, 3),
            "driver_kb_per_shard": round((end.memory - warm.memory) / shards * 1e6, 1),
            "seconds_to_first_shard": round(first, 1),
        }


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
