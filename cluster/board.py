"""What is going on, told by workers to the driver: one small actor that keeps the latest numbers per node."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")

CAUSES_KEPT = 20
NOTICES_KEPT = 20
PATIENCE_S = 10
"""Seconds anybody waits for the board before they go on without."""
NOT_THERE = (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError)


@ray.remote(num_cpus=0, max_restarts=-1)
class _Board:
    def __init__(self) -> None:
        self.latest: dict[str, dict[str, Any]] = {}
        self.causes: dict[str, dict[str, int]] = {}
        self.in_hand: dict[tuple[str, str, str], int] = {}
        self.failed: dict[str, set[str]] = {}

    def note(self, node: str, line: str) -> None:
        lines = self.latest.setdefault(node, {}).setdefault("notices", [])
        if line not in lines and len(lines) < NOTICES_KEPT:
            lines.append(line)

    def post(self, node: str, values: dict[str, Any]) -> None:
        self.latest.setdefault(node, {}).update(values, at=time.time())

    def read(self) -> dict[str, dict[str, Any]]:
        return self.latest

    def fail(self, node: str, cause: str, shard: str | None) -> None:
        if shard is not None:
            self.failed.setdefault(node, set()).add(shard)
        causes = self.causes.setdefault(node, {})
        if cause in causes or len(causes) < CAUSES_KEPT:
            causes[cause] = causes.get(cause, 0) + 1

    def failures(self, node: str) -> dict[str, int]:
        return self.causes.get(node, {})

    def failed_shards(self, node: str) -> set[str]:
        return self.failed.get(node, set())

    def begin(self, node: str, stage: str, shard: str) -> int:
        before = self.in_hand.get((node, stage, shard), 0)
        self.in_hand[node, stage, shard] = before + 1
        return before

    def end(self, node: str, stage: str, shard: str) -> None:
        self.in_hand.pop((node, stage, shard), None)


class StatusBoard:
    """Handle to the board; picklable, so that it travels to training workers. Numbers here are for the eye: the
    durable counts stand in the commit records.

    The board lives on the driver's node and so goes when the driver does, not with a worker's node. If it dies
    nevertheless, it begins anew; whoever asks meanwhile is told what was known last.
    """

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._actor = _Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._latest: dict[str, dict[str, Any]] = {}

    def post(self, node: str, **values: Any) -> None:
        """Tell the latest values of a node; does not wait."""
        self._actor.post.remote(node, values)

    def read(self) -> dict[str, dict[str, Any]]:
        """Latest values by node, and under "notices" the lines that were told of it (`NodeBoard.note`)."""
        self._latest = self._ask(self._actor.read.remote(), self._latest)
        return self._latest

    def of(self, node: str) -> NodeStatus:
        """The board as the stages of one node see it."""
        return NodeStatus(self._actor, node)

    def failures(self, node: str) -> dict[str, int]:
        """Causes of failed attempts of a node, and how often each was told."""
        return self._ask(self._actor.failures.remote(node), {})

    def failed_shards(self, node: str) -> set[str]:
        """Names of the shards on which a stage of the node has raised."""
        return self._ask(self._actor.failed_shards.remote(node), set())

    def _ask(self, answer: Any, otherwise: T) -> T:
        try:
            known: T = ray.get(answer, timeout=PATIENCE_S)
        except NOT_THERE:
            return otherwise
        return known


@dataclass(frozen=True)
class NodeStatus:
    """What the stages of one node tell, and ask. No trouble of the board ends or hides theirs."""

    actor: Any
    node: str

    def fail(self, cause: str, *, shard: str | None = None, wait: bool = False) -> None:
        """Tell why a shard's task failed; `wait` until it is told, for a process about to end."""
        told = self.actor.fail.remote(self.node, cause, shard)
        if wait:
            ray.wait([told], timeout=PATIENCE_S)

    def note(self, line: str) -> None:
        """Tell the user something, once however many processes tell it; does not wait."""
        self.actor.note.remote(self.node, line)

    def begin(self, stage: str, shard: str) -> int:
        """A process has this shard in hand from now on.

        Returns:
            How many had it before and never said that they had done with it: they died, with or by it.
        """
        try:
            before: int = ray.get(self.actor.begin.remote(self.node, stage, shard), timeout=PATIENCE_S)
        except NOT_THERE:
            return 0  # a board that died has forgotten; one more death will tell
        return before

    def end(self, stage: str, shard: str) -> None:
        """The stage has done with the shard, well or with an error."""
        self.actor.end.remote(self.node, stage, shard)
