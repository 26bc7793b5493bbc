"""Puts the plan of a run together: what each node takes, when it works, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.estimate.costs import ShardCost, fit_cost
from capfilt.pipeline.estimate.measured import Machines, MeasuredNode, MeasuredShard, SourceSize
from capfilt.pipeline.estimate.nodes import (
    Schedule,
    StageLoad,
    Task,
    Work,
    bottleneck,
    chain_seconds,
    node_seconds,
    schedule,
    shared_work,
    training_work,
)
from capfilt.pipeline.estimate.record import Interval, PlannedNode, interval
from capfilt.pipeline.estimate.spans import Span, add_spans
from capfilt.pipeline.node import Node

if TYPE_CHECKING:
    from capfilt.cluster.sizing import ActorPool, Sizing

FEWEST_SHARDS = 3
"""The first shard of a source also warms processes up. It counts only where fewer others are left."""
TASK_CPUS = 0.25
"""CPUs of a task that reads or writes (`cluster.chain.engine.Step`)."""
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The run, and the machines of the small run and of the run."""

    config: Config
    nodes: Mapping[str, Node]
    probe: Mapping[str, MeasuredNode]
    """Nodes of the small run, which has at most one round."""
    sources: Mapping[str, SourceSize]
    probed_on: Machines
    planned_on: Machines
    sizing: Sizing
    """How the planned machines are divided."""
    unknown_stages: frozenset[str] = field(default_factory=frozenset)
    """Stages that the small run could not measure."""

    def measured(self, node: Node) -> MeasuredNode | None:
        """The node of the small run that stands for this one: that of the first round for every later one."""
        name = f"{node.kind.name}.{min(1, node.round)}"
        return self.probe.get(node.name) or self.probe.get(name)


def plan_nodes(setting: Setting) -> list[PlannedNode]:
    """What every node of the run takes."""
    return [_plan_node(setting, node) for node in setting.nodes.values()]


def plan_time(setting: Setting, planned: Sequence[PlannedNode]) -> Schedule:
    """When the nodes work; those of unknown time take none."""
    tasks = []
    for each in planned:
        seconds = Span(0.0) if each.seconds is None else to_span(each.seconds)
        needs = setting.nodes[each.node].needs
        tasks.append(Task(name=each.node, seconds=seconds, needs=needs, cpus=each.cpus, gpus=each.gpus))
    return schedule(tasks, setting.planned_on.cpus, setting.planned_on.gpus)


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
        work = training_work(measured.step_seconds, measured.steps, steps)
        seconds = node_seconds(measured.seconds, work)
        return PlannedNode(
            node=node.name, units=steps, unit="steps", seconds=interval(seconds), cpus=cpus, gpus=gpus
        )
    units = _planned_units(setting, node, measured)
    growth = units / measured.units if units is not None and measured.units else 1.0
    side_by_side = setting.planned_on.gpus if gpus else setting.planned_on.cores
    work = shared_work(measured.parts, side_by_side, growth)
    seconds = node_seconds(measured.seconds, work)
    unit = {"evaluate": "images", "calibrate": "texts", "export": "images"}.get(node.kind.name, "")
    return PlannedNode(
        node=node.name, units=units, unit=unit, seconds=interval(seconds), cpus=cpus, gpus=gpus
    )


def _plan_chain(setting: Setting, node: Node, measured: MeasuredNode) -> PlannedNode:
    """A node that works on shards."""
    sources = {name: setting.sources[name] for name in node.sources}
    stages = sorted({stage for shard in measured.shards for stage in shard.seconds})
    known = [stage for stage in stages if stage not in setting.unknown_stages]
    pools = _pools(setting)
    busy = {stage: _total(measured.shards, sources, "seconds", stage) for stage in known}
    probed = {stage: Span(sum(s.seconds.get(stage, 0.0) for s in measured.shards)) for stage in known}
    planned_loads = [_load(stage, busy[stage], pools, setting.planned_on) for stage in known]
    probed_loads = [_load(stage, probed[stage], None, setting.probed_on) for stage in known]
    shards = sum(size.shards for size in sources.values())
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
        bytes={kind: interval(_total(measured.shards, sources, "bytes", kind), 0) for kind in kinds},
        bottleneck=bottleneck(planned_loads, shards),
    )


def _total(shards: Sequence[MeasuredShard], sources: Mapping[str, SourceSize], what: str, name: str) -> Span:
    """Seconds of a stage, or bytes of a kind, over all shards of the run.

    Args:
        what: "seconds" or "bytes".
        name: stage or kind.
    """
    spans = []
    for source, size in sources.items():
        own = [shard for shard in shards if shard.source == source]
        if own:
            spans.append(_fit(own, what, name).total(size.shards, size.rows))
    return add_spans(spans)


def _fit(shards: Sequence[MeasuredShard], what: str, name: str) -> ShardCost:
    warm = [shard for shard in shards if shard.shard > 0]
    used = warm if len(warm) >= FEWEST_SHARDS and what == "seconds" else shards
    return fit_cost([(shard.rows, float(getattr(shard, what).get(name, 0))) for shard in used])


def _pools(setting: Setting) -> dict[str, ActorPool]:
    sizing = setting.sizing
    if not setting.config.captions_itself:
        sizing = sizing.without_captioners(setting.config.cluster)
    return {"fetch": sizing.fetch, "caption": sizing.caption, "filter": sizing.filter}


def _load(stage: str, busy: Span, pools: Mapping[str, ActorPool] | None, machines: Machines) -> StageLoad:
    """What a stage has to do; without pools, in the small run, which has one process of each."""
    if stage not in ("fetch", "caption", "filter"):
        return StageLoad(name=stage, busy=busy, processes=max(1.0, machines.cpus / TASK_CPUS))
    on_gpu = machines.gpus > 0 and stage != "fetch"
    processes = 1 if pools is None else pools[stage].actors
    return StageLoad(name=stage, busy=busy, processes=processes, computes=stage != "fetch" and not on_gpu)


def _held(setting: Setting, node: Node) -> tuple[float, float]:
    """CPUs and GPUs that a node holds."""
    config, machines = setting.config, setting.planned_on
    whole = min(1.0, machines.gpus)
    if node.kind.trains:
        workers = config.training(node.kind.trains).workers
        each = whole if workers.gpus_per_worker is None else workers.gpus_per_worker
        return workers.workers * workers.cpus_per_worker, workers.workers * each
    if node.kind.streams_shards:
        pools = _pools(setting)
        names = ["fetch"] if not node.kind.judges else ["caption", "filter"]
        if not config.captions_itself and node.kind.judges:
            names.remove("caption")
        held = [pools[name] for name in names]
        return sum(p.actors * p.cpus for p in held), sum(p.actors * p.gpus for p in held)
    return (1.0, whole) if node.kind.name in ("evaluate", "calibrate") else (1.0, 0.0)


def planned_steps(setting: Setting, node: Node, measured: MeasuredNode) -> float:
    """Optimizer steps of a training: those of the config, or of its epochs over as many pairs as the small
    run lets expect."""
    train = setting.config.training(node.kind.trains)
    if train.steps is not None:
        return train.steps
    kinds = {name: setting.config.sources[name].kind for name in setting.config.trains_on(node.kind.trains)}
    human = [setting.sources[name] for name, kind in kinds.items() if kind == "human"]
    web = [name for name, kind in kinds.items() if kind == "web"]
    own = sum(size.probed_texts for size in human)
    pairs = sum(size.probed_texts * size.growth for size in human)
    if web:
        # An epoch reads one of the parts of a source.
        read = sum(setting.sources[name].rows / setting.config.sources[name].parts for name in web)
        pairs += (
            max(0, measured.pairs - own) * read / max(1, sum(setting.sources[n].probed_rows for n in web))
        )
    return max(1.0, round((train.epochs or 1) * max(1, round(pairs) // train.batch_size)))


def _planned_units(setting: Setting, node: Node, measured: MeasuredNode) -> float | None:
    """Images or texts of a node with other parts; None where nothing is counted."""
    config, kind = setting.config, node.kind.name
    if kind == "evaluate":
        names = config.of_kind("test")
        images = sum(s.probed_images * s.growth for s in (setting.sources[name] for name in names))
        return min(images, config.evaluate.limit or images)
    if kind == "calibrate":
        names = config.of_kind("web")
        texts = sum(s.probed_texts * s.growth for s in (setting.sources[name] for name in names))
        held_out = config.held_out_for(node.round) or 1.0
        return min(config.filter.calibrate.pairs, texts * held_out)
    if kind == "export" and measured.units:
        web = [setting.sources[name] for name in config.of_kind("web")]
        return measured.units * sum(s.rows for s in web) / max(1, sum(s.probed_rows for s in web))
    return None
