"""Puts the plan of a run together: what each node takes, when it works, and what that costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from capfilt.cluster.config import WorkersConfig
from capfilt.pipeline.estimate.amounts import Setting, planned_steps, planned_units
from capfilt.pipeline.estimate.costs import ShardCost, fit_cost
from capfilt.pipeline.estimate.measured import Machines, MeasuredNode, MeasuredShard
from capfilt.pipeline.estimate.nodes import (
    Schedule,
    StageLoad,
    Task,
    Work,
    bottleneck,
    chain_seconds,
    fuse_loads,
    node_seconds,
    schedule,
    shared_work,
    training_work,
)
from capfilt.pipeline.estimate.record import Interval, PlannedNode, interval
from capfilt.pipeline.estimate.spans import Span, add_spans
from capfilt.pipeline.node import Node

if TYPE_CHECKING:
    from capfilt.cluster.sizing import ActorPool

FEWEST_SHARDS = 3
"""The first shard of a source also warms processes up. It counts only where fewer others are left."""
TASK_CPUS = 0.25
"""CPUs of a task that reads or writes (`cluster.chain.steps.Step`)."""
SECONDS_PER_HOUR = 3600.0


def plan_nodes(setting: Setting) -> list[PlannedNode]:
    """What every node of the run takes."""
    return [_plan_node(setting, node) for node in setting.nodes.values()]


def plan_time(setting: Setting, planned: Sequence[PlannedNode]) -> Schedule:
    """When the nodes work; those of unknown time take none."""
    tasks = []
    for each in planned:
        seconds = Span(0.0) if each.seconds is None else to_span(each.seconds)
        needs = setting.nodes[each.node].needs
        cores = _busy_cores(setting, setting.nodes[each.node], each)
        tasks.append(
            Task(name=each.node, seconds=seconds, needs=needs, cpus=each.cpus, gpus=each.gpus, cores=cores)
        )
    machines = setting.planned_on
    return schedule(tasks, machines.cpus, machines.gpus, machines.cores)


def _busy_cores(setting: Setting, node: Node, planned: PlannedNode) -> float:
    """Cores that a node keeps busy: every worker of a training has as many threads as CPUs."""
    if planned.gpus or node.kind.summarizes:
        return 0.0
    cores = setting.planned_on.cores
    return cores if node.kind.streams_shards and node.kind.judges else min(cores, planned.cpus)


def stretch(planned: PlannedNode, timed: Schedule) -> PlannedNode:
    """The node with the time that it takes beside the others, instead of alone."""
    factor = timed.stretched.get(planned.node, 1.0)
    if planned.seconds is None or factor == 1.0:
        return planned
    return replace(planned, seconds=interval(to_span(planned.seconds) * factor))


def plan_money(
    seconds: Span, machines: Machines, gpu_price: float | None, cpu_price: float | None
) -> Span | None:
    """Price of the whole cluster for a time; None without prices.

    Args:
        gpu_price: of a GPU for an hour.
        cpu_price: of a CPU for an hour.
    """
    if gpu_price is None and cpu_price is None:
        return None
    rate = machines.gpus * (gpu_price or 0.0) + machines.cores * (cpu_price or 0.0)
    return seconds * (rate / SECONDS_PER_HOUR)


def to_span(found: Interval) -> Span:
    """An interval as a span."""
    return Span(found.value, found.high - found.value)


def _plan_node(setting: Setting, node: Node) -> PlannedNode:
    measured = setting.measured(node)
    cpus, gpus = _held(setting, node)
    if measured is None:
        return PlannedNode(node=node.name, units=None, unit="", seconds=None, cpus=cpus, gpus=gpus)
    if node.kind.streams_shards:
        return _plan_chain(setting, node, measured)
    if node.kind.trains:
        steps = planned_steps(setting, node, measured)
        work = training_work(measured.step_seconds, measured.steps, steps, _alike(setting, node))
        seconds = node_seconds(measured.seconds, work)
        return PlannedNode(
            node=node.name,
            units=round(steps.value),
            unit="steps",
            seconds=interval(seconds),
            cpus=cpus,
            gpus=gpus,
        )
    counted = planned_units(setting, node, measured)
    growth = counted / measured.units if counted is not None and measured.units else 1.0
    side_by_side = setting.planned_on.gpus if gpus else setting.planned_on.cores
    work = shared_work(measured.parts, side_by_side, growth)
    seconds = node_seconds(measured.seconds, work)
    unit = {"evaluate": "images", "calibrate": "texts", "export": "images"}.get(node.kind.name, "")
    return PlannedNode(
        node=node.name, units=counted, unit=unit, seconds=interval(seconds), cpus=cpus, gpus=gpus
    )


def _alike(setting: Setting, node: Node) -> list[float]:
    """Seconds of a step in all trainings of the small run with the settings of this one."""
    alike = {name for name, other in setting.nodes.items() if other.kind.trains == node.kind.trains}
    return [each for name, found in setting.probe.items() if name in alike for each in found.step_seconds]


def _plan_chain(setting: Setting, node: Node, measured: MeasuredNode) -> PlannedNode:
    """A node that works on shards."""
    sources = {name: setting.sources[name] for name in node.sources}
    stages = sorted({stage for shard in measured.shards for stage in shard.seconds})
    known = [stage for stage in stages if stage not in setting.unknown_stages]
    pools = _pools(setting, node)
    amounts = {name: (size.shards, size.rows) for name, size in sources.items()}
    busy = {stage: _total(measured.shards, amounts, "seconds", stage) for stage in known}
    alone = [_load(stage, busy[stage], pools, setting.planned_on) for stage in known]
    planned_loads = _in_processes(setting, alone)
    # The small run by the same model, without what the first calls of a process take beside: that belongs to
    # what does not grow.
    tried = _amounts(measured.shards)
    probed_loads = _in_processes(
        setting,
        [
            _load(stage, _total(measured.shards, tried, "seconds", stage), None, setting.probed_on)
            for stage in known
        ],
    )
    shards = _shards(setting, node)
    work = Work(
        probed=chain_seconds(probed_loads, len(measured.shards), setting.probed_on.cores),
        planned=chain_seconds(planned_loads, shards, setting.planned_on.cores),
    )
    kinds = sorted({kind for shard in measured.shards for kind in shard.bytes})
    cpus, gpus = _held(setting, node)
    return PlannedNode(
        node=node.name,
        units=sum(size.rows for size in sources.values()),
        unit="rows",
        seconds=interval(node_seconds(measured.seconds, work)),
        cpus=cpus,
        gpus=gpus,
        stages={stage: interval(span) for stage, span in busy.items()},
        bytes={kind: interval(_total(measured.shards, amounts, "bytes", kind), 0) for kind in kinds},
        bottleneck=bottleneck(planned_loads, shards),
    )


def _shards(setting: Setting, node: Node) -> float:
    """Shards of a node."""
    return sum(setting.sources[name].shards for name in node.sources)


def _in_processes(setting: Setting, loads: list[StageLoad]) -> list[StageLoad]:
    """The loads of the processes of a chain: captioner and filter may share theirs."""
    return fuse_loads(loads, ("caption", "filter")) if setting.sizing.split.fused else loads


def _amounts(shards: Sequence[MeasuredShard]) -> dict[str, tuple[float, float]]:
    """{source: (shards, rows)} of the small run."""
    found: dict[str, tuple[float, float]] = {}
    for each in shards:
        count, rows = found.get(each.source, (0.0, 0.0))
        found[each.source] = (count + 1, rows + each.rows)
    return found


def _total(
    shards: Sequence[MeasuredShard], amounts: Mapping[str, tuple[float, float]], what: str, name: str
) -> Span:
    """Seconds of a stage, or bytes of a kind, over so many shards and rows.

    Args:
        shards: those that were measured.
        amounts: {source: (shards, rows)}.
        what: "seconds" or "bytes".
        name: stage or kind.
    """
    spans = []
    for source, (count, rows) in amounts.items():
        own = [shard for shard in shards if shard.source == source]
        if own:
            spans.append(_fit(own, what, name).total(count, rows))
    return add_spans(spans)


def _fit(shards: Sequence[MeasuredShard], what: str, name: str) -> ShardCost:
    warm = [shard for shard in shards if shard.shard > 0]
    used = warm if len(warm) >= FEWEST_SHARDS and what == "seconds" else shards
    return fit_cost([(shard.rows, float(getattr(shard, what).get(name, 0))) for shard in used])


def _pools(setting: Setting, node: Node) -> dict[str, ActorPool]:
    """The actors of a node that works on shards."""
    from capfilt.cluster.sizing import divide_resources

    machines, config = setting.planned_on, setting.config.cluster
    split = dataclasses.replace(setting.sizing.split, shards=math.ceil(_shards(setting, node)))
    sizing = divide_resources(config, cpus=machines.cpus, gpus=machines.gpus, split=split)
    if not setting.config.captions_itself:
        sizing = sizing.without_captioners(setting.config.cluster)
    return {"fetch": sizing.fetch, "caption": sizing.caption, "filter": sizing.filter}


def _load(stage: str, busy: Span, pools: Mapping[str, ActorPool] | None, machines: Machines) -> StageLoad:
    """What a stage has to do; without pools, in the small run, which has one process of each."""
    if stage not in ("fetch", "caption", "filter"):
        return StageLoad(name=stage, busy=busy, processes=max(1.0, machines.cpus / TASK_CPUS))
    computes = stage != "fetch" and not machines.gpus
    if pools is None:
        return StageLoad(name=stage, busy=busy, processes=1, computes=computes)
    threads = max(1, int(pools[stage].cpus)) if computes else 1
    return StageLoad(name=stage, busy=busy, processes=pools[stage].actors, threads=threads, computes=computes)


def _held(setting: Setting, node: Node) -> tuple[float, float]:
    """CPUs and GPUs that a node holds."""
    from capfilt.cluster.threads import cpus_per_call

    config, machines = setting.config, setting.planned_on
    whole = min(1.0, machines.gpus)
    if node.kind.trains:
        section = config.tasks[node.task].finetune if node.task else config.training(node.kind.trains)
        workers = WorkersConfig() if section is None else section.workers
        each = whole if workers.gpus_per_worker is None else workers.gpus_per_worker
        return workers.workers * workers.cpus_per_worker, workers.workers * each
    if node.kind.streams_shards:
        pools = _pools(setting, node)
        names = ["fetch"] if not node.kind.judges else ["caption", "filter"]
        if node.kind.judges and (setting.sizing.split.fused or not config.captions_itself):
            names.remove("caption")
        held = [pools[name] for name in names]
        return sum(p.actors * p.cpus for p in held), sum(p.actors * p.gpus for p in held)
    if node.kind.name not in ("evaluate", "calibrate"):
        return 1.0, 0.0
    return (1.0, whole) if whole else (min(cpus_per_call(machines.cpus), machines.cores), 0.0)
