"""Sets the metrics of a run from what its driver knows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from capfilt.cluster.chain.efficiency import StageEfficiency, StageProcesses
from capfilt.cluster.metrics import Exporter
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.metrics import families as of
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord


class Receiver(Protocol):
    """What receives the metrics: `cluster.metrics.Exporter`."""

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add to a counter."""

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""

    def forget(self, name: str, **labels: str) -> None:
        """Let the series of a gauge that have these labels end."""

    def refresh(self) -> None:
        """Export all gauges once more."""


class RunMetrics:
    """The metrics of one command that works on a run; thread-safe as far as each node has one thread.

    Args:
        receiver: None: the metrics are not exported.
        clock: gives the Unix time.
    """

    def __init__(self, receiver: Receiver | None = None, clock: Callable[[], float] = time.time) -> None:
        self.receiver, self.clock = receiver, clock
        self._done: dict[str, int] = {}
        """node -> what was done at the last look."""
        self._repeated: dict[tuple[str, str, str], int] = {}
        """(node, stage, cause) -> the board's count at the last look."""
        self._running: set[str] = set()
        """Nodes that have begun and not ended."""
        self._stages: dict[str, Sequence[StageProcesses]] = {}
        """node -> stages of its chain."""

    @classmethod
    def exported(cls, run: str) -> RunMetrics:
        """Metrics that Ray exports; this process is connected to it.

        Args:
            run: the run directory, the label `run` of every metric.
        """
        return cls(Exporter(of.FAMILIES, {of.RUN: run}))

    def begin(self, node: str) -> None:
        """A node starts."""
        self._running.add(node)
        if self.receiver is not None:
            self.receiver.set(of.RUNNING.name, 1, node=node)

    def end(self, node: str) -> None:
        """A node has ended, in whatever way. Its last losses and speeds are no longer shown."""
        self._running.discard(node)
        if self.receiver is not None:
            self.receiver.set(of.RUNNING.name, 0, node=node)
            self.set_stages(node, ())
            for family in (of.LOSS, of.SAMPLES, of.READ, of.EFFICIENCY):
                self.receiver.forget(family.name, node=node)

    def count_shard(
        self,
        node: str,
        records: Sequence[CommitRecord],
        status: Mapping[str, int],
        seconds: Mapping[str, float],
    ) -> None:
        """Count a shard that the chain has finished.

        Args:
            records: of the files that were written for it.
            status: its rows by status.
            seconds: of each stage.
        """
        if (receiver := self.receiver) is None:
            return
        receiver.add(of.SHARDS.name, 1, node=node)
        for name, rows in status.items():
            receiver.add(of.ROWS.name, rows, node=node, status=name)
        for stage, value in seconds.items():
            receiver.add(of.STAGE_SECONDS.name, value, node=node, stage=stage)
        for record in records:
            receiver.add(of.BYTES.name, sum(file.bytes for file in record.files), node=node)
            if isinstance(record, CandidatesRecord):
                for origin, verdicts in record.candidates.items():
                    for verdict, texts in verdicts.items():
                        receiver.add(of.TEXTS.name, texts, node=node, origin=origin, verdict=verdict)

    def count_pass(self, node: str, cause: str) -> None:
        """Count that a node starts its stages again, for `resized`, `lost`, `failed` or `error`."""
        if self.receiver is not None:
            self.receiver.add(of.PASSES.name, 1, node=node, cause=cause)

    def set_stages(self, node: str, stages: Sequence[StageProcesses]) -> None:
        """Set the stages that the chain of a node has now, in their order; none once it has ended."""
        if (receiver := self.receiver) is None:
            return
        former = {each.name for each in self._stages.get(node, ())}
        for stage in former - {each.name for each in stages}:
            for family in (of.PROCESSES, of.GPUS, of.AT_WORK, of.WAITING):
                receiver.set(family.name, 0, node=node, stage=stage)
        for each in stages:
            receiver.set(of.PROCESSES.name, each.processes, node=node, stage=each.name)
            receiver.set(of.GPUS.name, each.gpus, node=node, stage=each.name)
        self._stages[node] = stages

    def set_waiting(self, node: str, waiting: Sequence[int]) -> None:
        """Set how many shards wait before each stage of the node, in their order; none ever waits before a
        stage in the processes of the stage before it, which `waiting` leaves out."""
        stages = self._stages.get(node, ())
        if self.receiver is None or sum(not stage.fused for stage in stages) != len(waiting):
            return
        before_processes = iter(waiting)
        for stage in stages:
            shards = 0 if stage.fused else next(before_processes)
            self.receiver.set(of.WAITING.name, shards, node=node, stage=stage.name)

    def set_efficiency(self, node: str, stages: Mapping[str, StageEfficiency]) -> None:
        """Set how close stages come to their models alone."""
        if self.receiver is not None:
            for name, found in stages.items():
                self.receiver.set(of.EFFICIENCY.name, found.efficiency, node=node, stage=name)

    def look(self, progress: Progress) -> None:
        """Take over what the progress display knows, right after it was drawn."""
        if self.receiver is None:
            return
        self.receiver.refresh()
        for node, (unit, done, total) in progress.amounts().items():
            self._set_progress(node, unit, done, total)
        for node, values in progress.board.items():
            self._set_work(node, values)
            if node in self._running:
                self._set_training(node, values)

    def _set_progress(self, node: str, unit: str, done: int, total: int) -> None:
        assert self.receiver is not None
        self.receiver.set(of.DONE.name, done, node=node, unit=unit)
        self.receiver.set(of.ALL.name, total, node=node, unit=unit)
        if self._done.get(node) != done:
            self._done[node] = done
            self.receiver.set(of.PROGRESS_AT.name, self.clock(), node=node)

    def _set_work(self, node: str, values: Mapping[str, Any]) -> None:
        assert self.receiver is not None
        at_work = values.get("at_work", {})
        for each in self._stages.get(node, ()):
            self.receiver.set(of.AT_WORK.name, at_work.get(each.name, 0), node=node, stage=each.name)
        for stage, cause, times in _repeated(values):
            before = self._repeated.get((node, stage, cause), 0)
            # A board that was restarted counts from 0 again.
            self.receiver.add(
                of.REPEATED.name,
                times - before if times >= before else times,
                node=node,
                stage=stage,
                cause=cause,
            )
            self._repeated[node, stage, cause] = times

    def _set_training(self, node: str, values: Mapping[str, Any]) -> None:
        assert self.receiver is not None
        for loss in of.LOSSES:
            if loss in values:
                self.receiver.set(of.LOSS.name, values[loss], node=node, loss=loss)
        if "samples_per_second" in values:
            self.receiver.set(of.SAMPLES.name, values["samples_per_second"], node=node)
        if "epoch_read_mb" in values:
            self.receiver.set(of.READ.name, values["epoch_read_mb"] * 1e6, node=node)


def _repeated(values: Mapping[str, Any]) -> Iterable[tuple[str, str, int]]:
    """(stage, cause, times) of what the board counts for a node."""
    for stage, causes in values.get("repeated", {}).items():
        for cause, times in causes.items():
            yield stage, cause, times
