"""What a run has taken, beside what was planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from capfilt.pipeline.estimate.nodes import Task, schedule
from capfilt.pipeline.estimate.record import Interval, Plan, PlannedNode
from capfilt.pipeline.estimate.spans import Span
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.ledger import NodeRecord


@dataclass(frozen=True, kw_only=True)
class Line:
    """A node or one of its stages."""

    name: str
    planned: Interval | None
    """Seconds."""
    took: float | None
    """Seconds; None while the node is not done."""
    stages: tuple[Line, ...] = ()

    @property
    def off(self) -> float | None:
        """How far the plan is off, as a share of what it took; negative if it planned too little."""
        if self.planned is None or not self.took:
            return None
        return self.planned.value / self.took - 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A run beside its plan."""

    lines: list[Line]
    total: Line
    bytes: dict[str, tuple[Interval | None, int | None]] = field(default_factory=dict)
    """By what they are: (planned, counted), summed over the nodes that made them."""
    money: float | None = None
    """Price of the planned cluster for the time that it took."""


def compare(
    plan: Plan | None, nodes: Mapping[str, Node], records: Mapping[str, NodeRecord | None]
) -> Comparison:
    """Compare a plan with the records of the nodes; without a plan, only what they took."""
    planned = {each.node: each for each in plan.nodes} if plan is not None else {}
    lines = [_line(name, planned.get(name), records.get(name)) for name in nodes]
    total = _total(plan, nodes, records)
    money = None
    if plan is not None and plan.money is not None and total.took is not None and plan.seconds.value:
        money = plan.money.value * total.took / plan.seconds.value
    return Comparison(lines=lines, total=total, bytes=_bytes(planned, records), money=money)


def _line(name: str, planned: PlannedNode | None, record: NodeRecord | None) -> Line:
    found: Mapping[str, Any] = record.counts.get("stage_seconds", {}) if record is not None else {}
    foreseen = planned.stages if planned is not None else {}
    names = [*foreseen, *(stage for stage in found if foreseen and stage not in foreseen)]
    stages = tuple(Line(name=stage, planned=foreseen.get(stage), took=found.get(stage)) for stage in names)
    return Line(
        name=name,
        planned=None if planned is None else planned.seconds,
        took=None if record is None else record.seconds,
        stages=stages,
    )


def _total(plan: Plan | None, nodes: Mapping[str, Node], records: Mapping[str, NodeRecord | None]) -> Line:
    """The run as a whole: its nodes one after another where they must be. What a node took includes what it
    waited for machines, so they are not counted here."""
    done: Sequence[Task] = [
        Task(name=name, seconds=Span(record.seconds), needs=node.needs)
        for name, node in nodes.items()
        if (record := records.get(name)) is not None
    ]
    took = schedule(done, 0.0, 0.0).seconds.value if len(done) == len(nodes) else None
    return Line(name="run", planned=None if plan is None else plan.seconds, took=took)


def _bytes(
    planned: Mapping[str, PlannedNode], records: Mapping[str, NodeRecord | None]
) -> dict[str, tuple[Interval | None, int | None]]:
    foreseen: dict[str, Interval] = {}
    counted: dict[str, int] = {}
    for node in planned.values():
        for kind, size in node.bytes.items():
            before = foreseen.get(kind, Interval(0, 0, 0))
            foreseen[kind] = Interval(
                before.value + size.value, before.low + size.low, before.high + size.high
            )
    for record in records.values():
        for kind, number in (record.counts.get("bytes", {}) if record is not None else {}).items():
            counted[kind] = counted.get(kind, 0) + number
    return {kind: (foreseen.get(kind), counted.get(kind)) for kind in {**foreseen, **counted}}
