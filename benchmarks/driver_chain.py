"""The engine of a chain by itself: real steps on an embedded Ray, with stages that do nothing."""

from __future__ import annotations

import resource
import time
from typing import Any

import pyarrow as pa
import ray

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.chain.engine import Step, run_chain
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
    """Seconds for each shard from the first one after `WARM_UP` to the last, and those of the driver's CPU.

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
        seen, wall, cpu = 0, 0.0, 0.0
        for _ in run_chain(items, steps, segment=ClusterConfig.segment):
            seen += 1
            if seen == WARM_UP:
                wall, cpu = time.perf_counter(), driver_cpu()
        wall, cpu = time.perf_counter() - wall, driver_cpu() - cpu
        assert seen == len(items), "every shard came back"
        return {
            "shards": shards,
            "ray": ray.__version__,
            "milliseconds_per_shard": round(wall / shards * 1e3, 3),
            "driver_cpu_milliseconds_per_shard": round(cpu / shards * 1e3, 3),
        }


def with_status(step: Step, status: Any) -> Step:
    """The step as the driver of a run makes it."""
    from dataclasses import replace

    return replace(with_step_logging(step, "bootstrap.1"), node_status=status)


def driver_cpu() -> float:
    """Seconds of this process on CPUs."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
