"""One step of a chain in the process that runs it: its time, its row count, its watchdog, its failing rows.

A step has a process of its own, or shares one with the steps before it (`Step.fused`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import ray

from capfilt.cluster.board import NodeStatus
from capfilt.cluster.chain.isolation import Isolation, RowIsolator, call_checked
from capfilt.cluster.chain.stage import HasRate, HasShardwisePart, SendsNotices, Stage
from capfilt.cluster.chain.subprocess_stage import SubprocessStage
from capfilt.cluster.chain.watchdog import Limits, Watchdog

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
    fused: bool = False
    """The step runs in the processes of the step before it, on each shard right after it. Both are mapping
    steps with the same `actors`, `cpus` and `gpus`."""
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

    Args:
        step: the step.
        keeps_claims: keep the claim on a shard that was processed in a subprocess until `release_kept`.
    """

    def __init__(self, step: Step, *, keeps_claims: bool = False) -> None:
        self.step, self.keeps_claims = step, keeps_claims
        self._kept: list[str] = []
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
        self._report_rate()
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
            if earlier_deaths and self.keeps_claims:
                self._kept.append(shard)
            else:
                status.release(self.step.name, shard)

    def release_kept(self) -> None:
        """Drop the claims that were kept."""
        while self._kept and self.step.node_status is not None:
            self.step.node_status.release(self.step.name, self._kept.pop())

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

    def _report_rate(self) -> None:
        status = self.step.node_status
        if isinstance(self.stage, HasRate) and status is not None and (rate := self.stage.rate()) is not None:
            status.report_rate(self.step.name, rate)

    def _report_limit_exceeded(self, cause: str) -> None:
        if self.step.node_status is not None:
            cause = f"{self.step.name}: the worker process {cause}"
            self.step.node_status.report_failure(cause, wait=True)

    def _forward_notices(self) -> None:
        """Send the stage's notices to the user: output of a worker ends up in Ray's log files."""
        name, status = self.step.name, self.step.node_status
        if isinstance(self.stage, SendsNotices) and status is not None:
            self.stage.on_notice(lambda line: status.add_notice(f"{name}: {line}"))


class FusedRunner:
    """Runs several steps on each shard in one process, one after another, each as `StageRunner` does.

    If the process dies in a later step, the shard is processed again from the first one. A step that had to
    use a subprocess then uses one again: otherwise a shard with rows that kill in two steps would cost a
    death of the process for each step at each attempt, and Ray's retries would not suffice.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.runners = [StageRunner(step, keeps_claims=True) for step in steps]

    def __call__(self, batch: pa.Table) -> pa.Table:
        try:
            for runner in self.runners:
                batch = runner(batch)
            return batch
        finally:
            for runner in self.runners:
                runner.release_kept()


def group_steps(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """The steps of each kind of process of a chain, in their order: several where steps are fused.

    Raises:
        ValueError: a fused step cannot run in the processes of the step before it.
    """
    groups: list[tuple[Step, ...]] = []
    for step in steps:
        if not step.fused:
            groups.append((step,))
            continue
        before = groups[-1][-1] if groups else None
        if before is None or not before.actors or _demand(before) != _demand(step):
            raise ValueError(f"step {step.name} is fused: it needs the actors of the step before it")
        groups[-1] = (*groups[-1], step)
    return groups


def _demand(step: Step) -> tuple[str, int, float, float]:
    return step.kind, step.actors, step.cpus, step.gpus


def run_task(batch: pa.Table, step: Step) -> pa.Table:
    """Run a cheap stage as a plain task, building it each time."""
    return StageRunner(step)(batch)
