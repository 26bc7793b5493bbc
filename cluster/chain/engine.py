"""Run stages as one Ray Data chain, with one block per shard from end to end.

The form follows from what Ray 2.60 guarantees: with `target_max_block_size=None` and row-preserving stages a
task emits exactly one block, so a task that dies is retried as a whole and its output counts once. Without
both, the death of a worker loses and duplicates rows without an error. All retries are bounded; Ray's default
is to retry a crashing task forever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from capfilt.cluster.board import NodeStatus
from capfilt.cluster.chain.isolation import Isolation, RowIsolator, call_checked
from capfilt.cluster.chain.ray_internals import map_whole_blocks, watch_executions
from capfilt.cluster.chain.resizing import Demand, Resizing
from capfilt.cluster.chain.stage import HasShardwisePart, SendsNotices, Stage
from capfilt.cluster.chain.subprocess_stage import SubprocessStage
from capfilt.cluster.chain.watchdog import Limits, Watchdog
from capfilt.cluster.config import ClusterConfig

MAX_RESTARTS = 20
"""Restarts of an actor over the lifetime of a chain. Ray's default is unlimited."""
MAX_TASK_RETRIES = 3
"""Retries of a task whose process died; then its shard is reported as failed. Ray's default is unlimited."""

NO_PROGRESS_S = 6 * 3600
"""Seconds without a finished shard after which Ray ends an execution: half an hour, its default, is too short
for a large shard. It is for processes that never start; `Resizing` ends an execution that has stalled."""

HOLD_POLL_S = 1.0
"""Seconds between two looks of a stage that waits for the slower ones behind it."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of a chain and the resources it runs on."""

    name: str
    make: Callable[[], Stage]
    """Builds the stage in the process that runs it; picklable, as a `functools.partial` of the class is."""
    actors: int = 0
    """Long-lived processes that hold the stage; 0 = short tasks that build a cheap stage each time."""
    cpus: float = 0.25
    """CPUs of each actor or task."""
    gpus: float = 0.0
    """GPUs of each actor or task."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the machines that may hold its actors; empty = any."""
    kind: Literal["read", "map", "write"] = "map"
    """Only the reader creates rows, only the writer consumes them; a `map` stage returns its input rows."""
    begins: bool = False
    """Work on a shard begins here: the step does what the board orders, skip it or (an actor) wait."""
    rowwise: Callable[[], Stage] | None = None
    """Builds the part of a reader or writer that maps rows, while the stage itself is a `HasShardwisePart`:
    it runs after a reader's shardwise part and before a writer's. Without it, the stage itself is called."""
    isolation: Isolation | None = None
    """How rows are marked on which the stage raises or its process dies; without it, they fail the shard."""
    limits: Limits = field(default_factory=Limits)
    """Time and memory above which the stage's process is terminated."""
    log_context: Callable[[str], AbstractContextManager[object]] | None = None
    """Entered with a shard's name while the stage works on it, to name the shard in log records."""
    node_status: NodeStatus | None = None
    """Receives causes of failure and notices for the user, which Ray would only write to its log files, and
    records which shards the processes of the stage work on."""


class StageRunner:
    """Runs one step on shards: measures its time (column `seconds_<name>`), checks its row count, watches its
    process, and isolates the rows on which it fails.

    A shard on which an earlier process died, for whatever reason, is processed in a subprocess: rows that
    kill the subprocess are found and marked, and this process survives. A table without rows passes through;
    a reader returns one when the run has been asked to stop, and a step that `begins` while the chain drains.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.stage = step.make()
        self.shardwise: Stage = self.stage
        self.rowwise: Stage | None = None
        if step.rowwise is not None:
            if not isinstance(self.stage, HasShardwisePart):
                raise TypeError(f"step {step.name}: `rowwise` requires a stage with a method `shardwise`")
            self.shardwise, self.rowwise = self.stage.shardwise, step.rowwise()
        self.watchdog = Watchdog(step.limits, self._report_limit_exceeded)
        self.watchdog.observe(self.stage)
        self._forward_notices()
        if step.actors and step.node_status is not None:
            step.node_status.report_start(step.name)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if not batch.num_rows or self._is_skipped():
            return batch.slice(0, 0)
        start = time.perf_counter()
        try:
            with self._log_context(batch):
                out = self._run(batch)
        except Exception as error:
            self._report_error(error, batch)
            raise
        if not out.num_rows:
            return out
        seconds = pa.array([time.perf_counter() - start] * out.num_rows, type=pa.float32())
        return out.append_column(f"seconds_{self.step.name}", seconds)

    def _is_skipped(self) -> bool:
        """Whether the shard is left to a later pass; waits while the chain holds its first stage."""
        status = self.step.node_status
        if not self.step.begins or status is None:
            return False
        while (order := status.order()) == "hold" and self.step.actors:
            time.sleep(HOLD_POLL_S)
        return order == "skip"

    def _log_context(self, batch: pa.Table) -> AbstractContextManager[object]:
        step = self.step
        if step.log_context is None or step.isolation is None:
            return nullcontext()
        return step.log_context(step.isolation.shard_name(batch))

    def _run(self, batch: pa.Table) -> pa.Table:
        step = self.step
        if step.kind == "map":
            return self._run_rowwise(self.stage, step.make, batch)
        if self.rowwise is None or step.rowwise is None:
            return self._run_shardwise(batch)
        if step.kind == "read":
            return self._run_rowwise(self.rowwise, step.rowwise, self._run_shardwise(batch))
        return self._run_shardwise(self._run_rowwise(self.rowwise, step.rowwise, batch))

    def _run_shardwise(self, batch: pa.Table) -> pa.Table:
        """Run the part that handles a shard as a whole: its errors fail the shard."""
        with self.watchdog:
            return self.shardwise(batch)

    def _run_rowwise(self, stage: Stage, make: Callable[[], Stage], batch: pa.Table) -> pa.Table:
        """Run a stage that maps rows: its errors fail only the offending rows. A subprocess uses `make`."""
        isolation, status = self.step.isolation, self.step.node_status
        if isolation is None or not batch.num_rows:
            with self.watchdog:
                return call_checked(self.step.name, stage, batch)
        if status is None:
            return self._run_here(stage, batch, isolation)
        shard = isolation.shard_name(batch)
        earlier_deaths = status.claim(self.step.name, shard)
        try:
            if earlier_deaths:
                return self._run_in_subprocess(make, batch, isolation)
            return self._run_here(stage, batch, isolation)
        finally:
            status.release(self.step.name, shard)

    def _run_here(self, stage: Stage, batch: pa.Table, isolation: Isolation) -> pa.Table:
        with self.watchdog:
            return RowIsolator(self.step.name, stage, isolation).run(batch)

    def _run_in_subprocess(
        self, make: Callable[[], Stage], batch: pa.Table, isolation: Isolation
    ) -> pa.Table:
        with SubprocessStage(ray.cloudpickle.dumps(make), self.step.limits) as stage:
            return RowIsolator(self.step.name, stage, isolation).run(batch)

    def _report_error(self, error: Exception, batch: pa.Table) -> None:
        if self.step.node_status is not None:
            line = " ".join(str(error).split())
            shard = None if self.step.isolation is None else self.step.isolation.shard_name(batch)
            cause = f"{self.step.name}: {type(error).__name__}: {line}"
            self.step.node_status.report_failure(cause, shard=shard, stage=self.step.name)

    def _report_limit_exceeded(self, cause: str) -> None:
        if self.step.node_status is not None:
            cause = f"{self.step.name}: the worker process {cause}"
            self.step.node_status.report_failure(cause, wait=True)

    def _forward_notices(self) -> None:
        """Send the stage's notices to the user: output of a worker ends up in Ray's log files."""
        name, status = self.step.name, self.step.node_status
        if isinstance(self.stage, SendsNotices) and status is not None:
            self.stage.on_notice(lambda line: status.add_notice(f"{name}: {line}"))


def run_task(batch: pa.Table, step: Step) -> pa.Table:
    """Run a cheap stage as a plain task, building it each time."""
    return StageRunner(step)(batch)


def run_chain(
    items: Sequence[dict[str, Any]],
    steps: Sequence[Step],
    *,
    segment: int = ClusterConfig.segment,
    name: str = "chain",
    resizing: Resizing | None = None,
) -> Iterator[dict[str, Any]]:
    """Run every item (one shard each) through the steps and yield the rows that the last step returns.

    A shard whose task failed after all retries is missing from the results. The caller must compare them with
    `items`, because Ray reports an execution with dropped blocks as a success.

    Args:
        items: what the first step turns into rows; one task and one block each.
        steps: the reader, the stages, the writer.
        segment: items per Dataset execution, which bounds the state of the driver.
        name: of the executions, in Ray's logs and dashboard.
        resizing: ends the chain early when the cluster has changed; shards that were not begun are then
            missing from the results, too.

    Raises:
        ClusterShrunk: nodes were lost, and the remaining ones have no room for all steps.
        ChainStalled: no task finishes any more.
    """
    pending = iter(items)
    while (resizing is None or resizing.reason is None) and (part := list(islice(pending, segment))):
        context = chain_context(len(part))
        if resizing is not None:
            watch_executions(context, resizing.look)
        with DataContext.current(context):
            dataset = ray.data.from_items(part, override_num_blocks=len(part))
            for step in steps:
                dataset = _apply(dataset, step)
            dataset.set_name(name)
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from batch.to_pylist()


def chain_demand(steps: Sequence[Step]) -> Demand:
    """Resources that all actors of a chain request together."""
    return Demand(
        cpus=sum(step.actors * step.cpus for step in steps),
        gpus=sum(step.actors * step.gpus for step in steps),
        fetch_cpus=sum(step.actors * step.cpus for step in steps if step.labels),
    )


def chain_context(shards: int) -> DataContext:
    """Ray Data's settings for a chain over so many shards: whole blocks, bounded retries, no progress bars.

    Ray aborts the execution if more than 1 % of the shards fail, plus three if there are more than three.
    """
    context = DataContext.get_current().copy()
    context.target_max_block_size = None
    context.max_errored_blocks = shards // 100 + (3 if shards > 3 else 0)
    context.actor_init_retry_on_errors = True
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _apply(dataset: ray.data.Dataset, step: Step) -> ray.data.Dataset:
    common: dict[str, Any] = {"num_cpus": step.cpus}
    if step.gpus:
        common["num_gpus"] = step.gpus
    if step.labels:
        common["label_selector"] = dict(step.labels)
    if step.actors:
        return map_whole_blocks(
            dataset,
            StageRunner,
            fn_constructor_args=(step,),
            compute=ActorPoolStrategy(size=step.actors),
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_TASK_RETRIES,
            **common,
        )
    return map_whole_blocks(
        dataset,
        run_task,
        fn_args=(step,),
        compute=TaskPoolStrategy(),
        max_retries=MAX_TASK_RETRIES,
        **common,
    )


def map_remote(
    function: Callable[[Any], Any], items: Sequence[Any], *, cpus: float, gpus: float
) -> list[Any]:
    """`[function(item) for item in items]`, with each call in a process of its own on the cluster.

    Args:
        function: picklable.
        items: picklable.
        cpus, gpus: requested by each call.

    Raises:
        ray.exceptions.RayTaskError: with the function's own error inside.
    """
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_TASK_RETRIES)(function)
    return list(ray.get([remote.remote(item) for item in items]))
