"""Live status of the nodes of a run: one small actor that workers write to and the driver reads.

The actor keeps, per node, the latest values, notices for the user, causes of failures, and which shards are
claimed by which stage. All of it is best effort; durable are only the commit records of a run's shards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")

MAX_CAUSES = 20
"""Distinct causes of failure kept per node."""
MAX_NOTICES = 20
"""Distinct notices kept per node."""
TIMEOUT_S = 10
"""Seconds to wait for an answer of the actor before continuing without it."""
Order = Literal["begin", "hold", "skip"]
"""What the first steps of a chain do with their next shard."""
UNAVAILABLE_ERRORS = (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError)


@ray.remote(num_cpus=0, max_restarts=-1)
class _StatusActor:
    """State behind `StatusBoard` and `NodeStatus`; the methods are documented there."""

    def __init__(self) -> None:
        self._latest: dict[str, dict[str, Any]] = {}
        self._causes: dict[str, dict[str, int]] = {}
        self._failed_shards: dict[str, set[str]] = {}
        self._claims: dict[tuple[str, str, str], int] = {}
        """(node, stage, shard) -> claims that were not released."""
        self._started: dict[str, dict[str, int]] = {}
        """node -> stage -> processes that have started."""
        self._rates: dict[str, dict[str, dict[str, float]]] = {}
        """node -> stage -> process -> images per second of its model."""
        self._repeated: dict[str, dict[str, dict[str, int]]] = {}
        """node -> stage -> why shards are processed again -> how often."""
        self._draining: set[str] = set()
        self._holding: set[str] = set()

    def set_draining(self, node: str, draining: bool) -> None:
        (self._draining.add if draining else self._draining.discard)(node)

    def set_holding(self, node: str, holding: bool) -> None:
        (self._holding.add if holding else self._holding.discard)(node)

    def order(self, node: str) -> Order:
        if node in self._draining:
            return "skip"
        return "hold" if node in self._holding else "begin"

    def post(self, node: str, values: dict[str, Any]) -> None:
        self._latest.setdefault(node, {}).update(values, at=time.time())

    def read(self) -> dict[str, dict[str, Any]]:
        board = {node: dict(values) for node, values in self._latest.items()}
        for node, started in self._started.items():
            board.setdefault(node, {})["started"] = dict(started)
        for node in self._rates:
            board.setdefault(node, {})["rates"] = self.rates(node)
        for node, repeated in self._repeated.items():
            board.setdefault(node, {})["repeated"] = {s: dict(causes) for s, causes in repeated.items()}
        for node, stage, _ in self._claims:
            at_work = board.setdefault(node, {}).setdefault("at_work", {})
            at_work[stage] = at_work.get(stage, 0) + 1
        return board

    def report_start(self, node: str, stage: str) -> None:
        started = self._started.setdefault(node, {})
        started[stage] = started.get(stage, 0) + 1

    def report_rate(self, node: str, stage: str, process: str, rate: float) -> None:
        self._rates.setdefault(node, {}).setdefault(stage, {})[process] = rate

    def add_notice(self, node: str, line: str) -> None:
        lines = self._latest.setdefault(node, {}).setdefault("notices", [])
        if line not in lines and len(lines) < MAX_NOTICES:
            lines.append(line)

    def report_failure(self, node: str, cause: str, shard: str | None, stage: str | None) -> None:
        if stage is not None:
            self._count_repeated(node, stage, "error")
        if shard is not None:
            self._failed_shards.setdefault(node, set()).add(shard)
        causes = self._causes.setdefault(node, {})
        if cause in causes or len(causes) < MAX_CAUSES:
            causes[cause] = causes.get(cause, 0) + 1

    def rates(self, node: str) -> dict[str, float]:
        rates = self._rates.get(node, {})
        return {stage: fmean(of_stage.values()) for stage, of_stage in rates.items()}

    def failures(self, node: str) -> dict[str, int]:
        return self._causes.get(node, {})

    def failed_shards(self, node: str) -> set[str]:
        return self._failed_shards.get(node, set())

    def claim(self, node: str, stage: str, shard: str) -> int:
        unreleased = self._claims.get((node, stage, shard), 0)
        self._claims[node, stage, shard] = unreleased + 1
        if unreleased:
            self._count_repeated(node, stage, "death")
        return unreleased

    def _count_repeated(self, node: str, stage: str, cause: str) -> None:
        causes = self._repeated.setdefault(node, {}).setdefault(stage, {})
        causes[cause] = causes.get(cause, 0) + 1

    def release(self, node: str, stage: str, shard: str) -> None:
        self._claims.pop((node, stage, shard), None)


class StatusBoard:
    """Handle to the status actor; picklable, so that training workers can post to it.

    The actor is placed on the driver's node, so that it does not die with a worker's node. If it dies anyway,
    Ray restarts it empty; until it answers again, reads return the last known values or nothing.
    """

    def __init__(self) -> None:
        driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor_class: Any = _StatusActor
        self._actor = actor_class.options(scheduling_strategy=driver_node).remote()
        self._latest: dict[str, dict[str, Any]] = {}
        self._pending: Any = None
        """A read that has not been answered."""

    def post(self, node: str, **values: Any) -> None:
        """Update the latest values of a node without waiting."""
        self._actor.post.remote(node, values)

    def read(self, timeout: float = TIMEOUT_S) -> dict[str, dict[str, Any]]:
        """Latest values per node; those of the last read if there is no answer in time.

        They are: what was posted, with the time "at" of the last post; "notices", the lines of
        `NodeStatus.add_notice`; "started", {stage: processes that have started}; "at_work", {stage:
        shards that it works on}; "rates", {stage: images per second of its model alone, the mean of its
        processes}; and "repeated", {stage: {"error": attempts that have raised, "death":
        attempts after a process that died with the shard}}.
        """
        if self._pending is None:
            self._pending = self._actor.read.remote()
        if ray.wait([self._pending], timeout=timeout)[0]:
            self._latest = self._get(self._pending, self._latest)
            self._pending = None
        return self._latest

    def for_node(self, node: str) -> NodeStatus:
        """The board as seen by the stages of one node."""
        return NodeStatus(self._actor, node)

    def rates(self, node: str) -> dict[str, float]:
        """The "rates" of `read` as they are now: the last read may be older than the end of a short chain."""
        return self._get(self._actor.rates.remote(node), {})

    def failures(self, node: str) -> dict[str, int]:
        """{cause: number of reports} for the failed attempts of a node."""
        return self._get(self._actor.failures.remote(node), {})

    def failed_shards(self, node: str) -> set[str]:
        """Names of the shards on which a stage of the node has raised."""
        return self._get(self._actor.failed_shards.remote(node), set())

    def _get(self, reference: Any, default: T) -> T:
        try:
            answer: T = ray.get(reference, timeout=TIMEOUT_S)
        except UNAVAILABLE_ERRORS:
            return default
        return answer


@dataclass(frozen=True)
class NodeStatus:
    """Handle of one node's stages to the board. A board that does not answer never stops or fails a stage."""

    actor: Any
    node: str

    def report_failure(
        self, cause: str, *, shard: str | None = None, stage: str | None = None, wait: bool = False
    ) -> None:
        """Report why a task failed.

        Args:
            cause: one line.
            shard: name of the shard, if the stage raised on it.
            stage: the stage that raised; None if something else has failed.
            wait: return only once the report has arrived; for a process that is about to exit.
        """
        sent = self.actor.report_failure.remote(self.node, cause, shard, stage)
        if wait:
            ray.wait([sent], timeout=TIMEOUT_S)

    def report_start(self, stage: str) -> None:
        """Report that a long-lived process of a stage is ready to work; does not wait."""
        self.actor.report_start.remote(self.node, stage)

    def report_rate(self, stage: str, rate: float) -> None:
        """Report how many images per second the model of a stage processes in this process; does not wait."""
        process = ray.get_runtime_context().get_worker_id()
        self.actor.report_rate.remote(self.node, stage, process, rate)

    def post(self, **values: Any) -> None:
        """Update the latest values of the node; does not wait."""
        self.actor.post.remote(self.node, values)

    def add_notice(self, line: str) -> None:
        """Show the user a line, once even if several processes send it; does not wait."""
        self.actor.add_notice.remote(self.node, line)

    def set_draining(self, draining: bool) -> None:
        """Let the first steps of the node skip shards that they have not begun; does not wait."""
        self.actor.set_draining.remote(self.node, draining)

    def set_holding(self, holding: bool) -> None:
        """Let the first step with actors wait before it begins another shard; does not wait."""
        self.actor.set_holding.remote(self.node, holding)

    def order(self) -> Order:
        """What the first steps do with the next shard; "begin" if the board does not answer."""
        try:
            order: Order = ray.get(self.actor.order.remote(self.node), timeout=TIMEOUT_S)
        except UNAVAILABLE_ERRORS:
            return "begin"
        return order

    def claim(self, stage: str, shard: str) -> int:
        """Record that this process starts to work on a shard.

        Returns:
            Number of earlier claims that were never released: processes that died while they worked on the
            shard. 0 if the board does not answer.
        """
        try:
            unreleased: int = ray.get(self.actor.claim.remote(self.node, stage, shard), timeout=TIMEOUT_S)
        except UNAVAILABLE_ERRORS:
            return 0  # a restarted actor has lost its claims; the next death is recorded again
        return unreleased

    def release(self, stage: str, shard: str) -> None:
        """Record that the stage has finished the shard, with or without an error; drops all claims on it."""
        self.actor.release.remote(self.node, stage, shard)
