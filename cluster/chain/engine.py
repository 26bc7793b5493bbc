"""Stages → one Ray Data chain, one block per shard from end to end.

What Ray 2.60 guarantees decides the form: with `target_max_block_size=None` and row-preserving stages a task
emits one block, so a task that dies is redone as a whole and its output counts once. Without both, worker death
loses and doubles rows without an error. Retries are bounded: by default Ray repeats a crashing task for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from capfilt.cluster.board import NodeStatus
from capfilt.cluster.chain.isolation import Isolation, Search, Stage, call_checked
from capfilt.cluster.chain.shrinking import Demand, watches_of
from capfilt.cluster.chain.subprocess_stage import SubprocessStage
from capfilt.cluster.chain.watchdog import Limits, Watchdog, watch_progress

RETRIES = {"max_restarts": 20, "max_task_retries": 3}
"""Ray's own default is "for ever" for both; a task that dies four times is given up and its shard reported."""

NO_PROGRESS_S = 6 * 3600
"""Ray ends an execution after half an hour in which no shard moved; one shard may well take longer, and a stage that
hangs is ended by its guard. What is left for Ray to notice is a cluster that never has room."""

READERS = 2
"""Tasks that read ahead for one training worker: enough to keep up, too few to take its CPUs. They ask for no
CPU: where the trainers hold every one, a reader that waited for its own would stop them all."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of a chain and what it runs on."""

    name: str
    make: Callable[[], Stage]
    """Builds the stage in the process that runs it; must be picklable (a `functools.partial` of the class)."""
    actors: int = 0
    """Long-lived processes that hold the stage; 0 = short tasks that build it anew (cheap stages)."""
    cpus: float = 0.25
    gpus: float = 0.0
    kind: Literal["read", "map", "write"] = "map"
    """Only the reader makes rows, only the writer ends them; a `map` stage returns exactly the rows it got."""
    rowwise: Callable[[], Stage] | None = None
    """Builds what a reader does after its `shardwise`, a writer before it: a `map` of rows. Of a reader or writer without
    it the call counts as one step for the whole shard."""
    isolation: Isolation | None = None
    """Given for what maps rows: a row on which it raises, or its process dies, fails alone."""
    limits: Limits = field(default_factory=Limits)
    """Time and memory after which the stage's process is ended; no limit unless told otherwise."""
    log_context: Callable[[str], AbstractContextManager[object]] | None = None
    """Entered with a shard's name while the stage works on it, to name the shard in log records."""
    reports: NodeStatus | None = None
    """Receives the cause when the stage fails on a shard (Ray itself keeps it in its logs), and what the stage wants
    the user to know; remembers which shards the processes of the stage have in hand."""


class StageRunner:
    """A stage with its time written beside the rows (`seconds_<name>`), its row count checked, its process watched,
    and the rows on which it fails told apart.

    A shard that an earlier process died of, whichever its fault was, is tried again in a process apart: the rows
    that kill that one too are found and end, and this process lives. A table without rows passes through: it is what
    a reader gives once the run is to stop.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.stage = step.make()
        self.rowwise = None if step.rowwise is None else step.rowwise()
        self.guard = Watchdog(step.limits, self._last_words)
        watch_progress(self.stage, self.guard.beat)
        hear_notices(self.stage, step)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not batch.num_rows:
            return batch
        start = time.perf_counter()
        try:
            with self._log_context(batch):
                out = self._run(batch)
        except Exception as error:
            if self.step.reports is not None:
                line = " ".join(str(error).split())
                shard = None if self.step.isolation is None else self.step.isolation.name(batch)
                self.step.reports.fail(f"{self.step.name}: {type(error).__name__}: {line}", shard=shard)
            raise
        if self.step.kind == "write" or not out.num_rows:
            return out
        seconds = pa.array([time.perf_counter() - start] * out.num_rows, type=pa.float32())
        return out.append_column(f"seconds_{self.step.name}", seconds)

    def _log_context(self, batch: pa.Table) -> AbstractContextManager[object]:
        step = self.step
        if step.log_context is None or step.isolation is None:
            return nullcontext()
        return step.log_context(step.isolation.name(batch))

    def _run(self, batch: pa.Table) -> pa.Table:
        step = self.step
        if step.kind == "map":
            return self._map(self.stage, step.make, batch)
        if self.rowwise is None or step.rowwise is None:
            return self._shardwise(self.stage, batch)
        shardwise: Stage = self.stage.shardwise  # type: ignore[attr-defined]
        if step.kind == "read":
            return self._map(self.rowwise, step.rowwise, self._shardwise(shardwise, batch))
        return self._shardwise(shardwise, self._map(self.rowwise, step.rowwise, batch))

    def _shardwise(self, stage: Stage, batch: pa.Table) -> pa.Table:
        with self.guard:
            return stage(batch)

    def _map(self, stage: Stage, make: Callable[[], Stage], batch: pa.Table) -> pa.Table:
        """What a stage, or the part of one that maps rows, makes of a shard; `make` builds it in another process."""
        isolation, reports = self.step.isolation, self.step.reports
        if isolation is None or not batch.num_rows:
            with self.guard:
                return call_checked(self.step.name, stage, batch)
        if reports is None:
            return self._directly(stage, batch, isolation)
        shard = isolation.name(batch)
        died = reports.begin(self.step.name, shard)
        try:
            return (
                self._carefully(make, batch, isolation) if died else self._directly(stage, batch, isolation)
            )
        finally:
            reports.end(self.step.name, shard)

    def _directly(self, stage: Stage, batch: pa.Table, isolation: Isolation) -> pa.Table:
        with self.guard:
            return Search(self.step.name, stage, isolation).run(batch)

    def _carefully(self, make: Callable[[], Stage], batch: pa.Table, isolation: Isolation) -> pa.Table:
        with SubprocessStage(ray.cloudpickle.dumps(make), self.step.limits) as stage:
            return Search(self.step.name, stage, isolation).run(batch)

    def _last_words(self, cause: str) -> None:
        if self.step.reports is not None:
            self.step.reports.fail(f"{self.step.name}: its process {cause}", wait=True)


def hear_notices(stage: object, step: Step) -> None:
    """Pass a stage's lines for the user on, if it has a method `on_notice(told)` for them: a worker's own output ends in
    Ray's logs."""
    on_notice, reports = getattr(stage, "on_notice", None), step.reports
    if on_notice is not None and reports is not None:
        on_notice(lambda line: reports.note(f"{step.name}: {line}"))


def run_task(batch: pa.Table, step: Step) -> pa.Table:
    """A cheap stage as a plain task."""
    return StageRunner(step)(batch)


def run_local(items: Iterable[dict[str, Any]], steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
    """The same chain without Ray, in this process: for tests and for looking at one shard."""
    runners = [StageRunner(step) for step in steps]
    for item in items:
        batch = pa.Table.from_pylist([item])
        for runner in runners:
            batch = runner(batch)
        yield from batch.to_pylist()


def run_chain(
    items: Sequence[dict[str, Any]], steps: Sequence[Step], *, segment: int = 2000, name: str = "chain"
) -> Iterator[dict[str, Any]]:
    """Run every item (one shard each) through the steps and yield the rows the last step returns.

    Args:
        items: what the first step turns into rows; one task, one block each.
        steps: first the reader, last the writer.
        segment: items per Dataset execution, so that the driver's state stays bounded.

    A shard whose task failed for good is not among the results: the caller compares with `items`, because Ray
    calls an execution with dropped blocks a success.

    Raises:
        ClusterShrunk: nodes are gone, and the rest has no room for all steps.
    """
    pending = iter(items)
    watches = watches_of(demand_of(steps), ray.cluster_resources())
    while part := list(islice(pending, segment)):
        context = chain_context(len(part))
        context.custom_execution_callback_classes = watches
        with DataContext.current(context):
            dataset = ray.data.from_items(part, override_num_blocks=len(part))
            for step in steps:
                dataset = _apply(dataset, step)
            dataset.set_name(name)
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from batch.to_pylist()


def demand_of(steps: Sequence[Step]) -> Demand:
    """What the actors of a chain ask for together."""
    return Demand(
        cpus=sum(step.actors * step.cpus for step in steps),
        gpus=sum(step.actors * step.gpus for step in steps),
    )


def stream_blocks(items: Sequence[dict[str, Any]], step: Step) -> Iterator[pa.Table]:
    """Tables of `items` in their order, read ahead by other processes: the input of a training worker.

    Raises:
        ray.exceptions.RayTaskError: an item cannot be read; training never goes on with a hole.
    """
    if not items:
        return
    context = chain_context(0)
    context.execution_options.preserve_order = True
    with DataContext.current(context):
        dataset = ray.data.from_items(list(items), override_num_blocks=len(items))
        dataset = _apply(dataset, step, tasks=READERS)
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)


def chain_context(shards: int) -> DataContext:
    """Ray Data's settings for a chain: whole blocks, bounded retries, no bars of its own."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = None
    context.max_errored_blocks = shards // 100 + (3 if shards > 3 else 0)
    context.actor_init_retry_on_errors = True
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _apply(dataset: ray.data.Dataset, step: Step, *, tasks: int | None = None) -> ray.data.Dataset:
    # The internal form of map_batches: the public one wants an integer batch size for GPU stages, and that
    # merges neighbouring blocks as soon as a shard has fewer rows.
    common: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": step.cpus}
    if step.gpus:
        common["num_gpus"] = step.gpus
    if step.actors:
        return dataset.map_batches_internal(
            StageRunner,
            fn_constructor_args=(step,),
            compute=ActorPoolStrategy(size=step.actors),
            **RETRIES,
            **common,
        )
    compute = TaskPoolStrategy(size=tasks)
    return dataset.map_batches_internal(run_task, fn_args=(step,), compute=compute, max_retries=3, **common)


def call_all(fn: Callable[[Any], Any], items: Sequence[Any], *, cpus: float, gpus: float) -> list[Any]:
    """`[fn(item) for item in items]`, each in a process of its own on the cluster.

    Raises:
        ray.exceptions.RayTaskError: with the function's own error inside.
    """
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(fn)
    return list(ray.get([remote.remote(item) for item in items]))
