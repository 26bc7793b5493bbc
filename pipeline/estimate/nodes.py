"""The time of each kind of node in a run, from that in a small run.

A node takes a time that does not grow with the run (processes start, models are loaded, records are read),
and a time that does. The small run shows the sum; what does not grow is the sum less the modeled rest:

    time in the run = (time in the small run - model(small run)) + model(run)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from capfilt.pipeline.estimate.spans import Span, add_spans, mean_span


@dataclass(frozen=True, kw_only=True)
class StageLoad:
    """What a stage of a chain has to do."""

    name: str
    busy: Span
    """Seconds that its processes work, summed over them."""
    processes: float
    """How many can work side by side."""
    threads: int = 1
    """Of each, which divide the work of a shard."""
    computes: bool = True
    """It keeps a core busy, instead of a GPU or the network."""

    def at_once(self, shards: float) -> float:
        """Threads of the processes that have a shard."""
        return max(1.0, min(self.processes, shards)) * self.threads


def chain_seconds(stages: Sequence[StageLoad], shards: float, cores: float) -> Span:
    """Time of a chain of stages that work side by side on different shards.

    The slowest stage determines it: its work, divided among the threads of as many processes as have a
    shard. One shard passes the other stages while that stage waits. Stages that compute also share the cores.

    Args:
        shards: of the node.
        cores: of the cluster.
    """
    if not stages or not shards:
        return Span(0.0)
    alone = {each.name: each.busy * (1 / each.at_once(shards)) for each in stages}
    slowest = max(stages, key=lambda each: alone[each.name].value)
    waiting = add_spans(each.busy * (1 / shards / each.threads) for each in stages if each is not slowest)
    piped = alone[slowest.name] + waiting
    shared = add_spans(each.busy for each in stages if each.computes) * (1 / max(1.0, cores))
    return max(piped, shared, key=lambda each: each.value)


def fuse_loads(stages: Sequence[StageLoad], fused: Sequence[str]) -> list[StageLoad]:
    """The same with one load for stages that work one after another in the same processes. It has the name of
    the stage that has most to do.

    Args:
        fused: names of these stages; those that a chain lacks do not count.
    """
    together = [each for each in stages if each.name in fused]
    if len(together) < 2:
        return list(stages)
    most = max(together, key=lambda each: each.busy.value)
    one = replace(most, busy=add_spans(each.busy for each in together))
    return [one if each is most else each for each in stages if each is most or each not in together]


def bottleneck(stages: Sequence[StageLoad], shards: float) -> str | None:
    """The stage of a chain whose processes have most to do; None without stages."""
    load = {each.name: each.busy.value / each.at_once(shards) for each in stages}
    return max(load, key=lambda name: load[name], default=None)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What grows of a node: its time in the small run, and in the run."""

    probed: Span
    planned: Span


def node_seconds(measured: float, work: Work) -> Span:
    """Time of a node in the run.

    Args:
        measured: seconds of the node in the small run.
        work: by the model.
    """
    return Span(max(0.0, measured - work.probed.value)) + work.planned


def training_work(own: Sequence[float], probed: int, planned: Span, alike: Sequence[float] = ()) -> Work:
    """What grows of a training.

    Args:
        own: seconds of a step, measured on several pieces of the small training.
        probed: steps of the small training.
        planned: steps of the training.
        alike: seconds of a step in all small trainings with the same settings, which stand for those of this
            one; it is only one of several times at which a step was measured.
    """
    step = mean_span(alike or own)
    more = Span(0.0, step.value * planned.error)
    return Work(probed=mean_span(own) * probed, planned=step * planned.value + more)


def shared_work(seconds: Mapping[str, float], side_by_side: float, growth: float) -> Work:
    """What grows of a node whose parts each work on the same rows, as the evaluations of several models.

    Args:
        seconds: by part, in the small run.
        side_by_side: parts that run at the same time, where there are as many.
        growth: rows of the run / rows of the small run.
    """
    if not seconds:
        return Work(probed=Span(0.0), planned=Span(0.0))
    total = mean_span(list(seconds.values())) * (len(seconds) / max(1.0, min(side_by_side, len(seconds))))
    return Work(probed=total, planned=total * growth)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A node as the schedule sees it."""

    name: str
    seconds: Span
    needs: tuple[str, ...] = ()
    cpus: float = 0.0
    """CPUs and GPUs that it holds."""
    gpus: float = 0.0
    cores: float = 0.0
    """Cores that it keeps busy while it has them for itself; 0 where it mostly waits for a GPU."""


@dataclass(frozen=True)
class Schedule:
    """When the nodes of a run work."""

    seconds: Span
    """From the start of the first to the end of the last."""
    path: list[str] = field(default_factory=list)
    """The nodes that determine this time: each starts when the one before it ends."""
    stretched: dict[str, float] = field(default_factory=dict)
    """Node → its time in this schedule / its time alone; above 1 where nodes share the cores."""


def schedule(tasks: Sequence[Task], cpus: float, gpus: float, cores: float = math.inf) -> Schedule:
    """Let every node start as soon as the nodes that it needs are done and the cluster has room, in the order
    of the list.

    A node that requests more than the cluster has gets all of it. Nodes that together would keep more cores
    busy than there are share them evenly. The errors of the nodes on the path add.

    Args:
        cpus, gpus: that nodes hold: on a small machine Ray gives away more CPUs than there are cores.
        cores: of the cluster.
    """
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    before: dict[str, str | None] = {}
    left: dict[str, float] = {}
    by_name = {task.name: task for task in tasks}
    waiting, now, last = list(tasks), 0.0, None
    while waiting or left:
        running = [by_name[name] for name in left]
        for task in list(waiting):
            ready = all(need in ends for need in task.needs if need in by_name)
            if ready and _has_room(task, running, cpus, gpus):
                running.append(task)
                begins[task.name], left[task.name], before[task.name] = now, task.seconds.value, last
                waiting.remove(task)
        speeds = _speeds(running, cores)
        step = min(left[name] / speeds[name] for name in left)
        last = min(left, key=lambda name: left[name] / speeds[name])
        now += step
        left = {name: rest - step * speeds[name] for name, rest in left.items() if name != last}
        ends[last] = now
    path: list[str] = []
    name = max(ends, key=lambda each: ends[each], default=None)
    while name is not None:
        path.insert(0, name)
        name = before[name]
    stretched = {
        name: (ends[name] - begins[name]) / alone if (alone := by_name[name].seconds.value) else 1.0
        for name in ends
    }
    return Schedule(add_spans(by_name[each].seconds * stretched[each] for each in path), path, stretched)


def _has_room(task: Task, running: Sequence[Task], cpus: float, gpus: float) -> bool:
    free_cpus = cpus - sum(min(each.cpus, cpus) for each in running)
    free_gpus = gpus - sum(min(each.gpus, gpus) for each in running)
    return min(task.cpus, cpus) <= free_cpus + 1e-9 and min(task.gpus, gpus) <= free_gpus + 1e-9


def _speeds(running: Sequence[Task], cores: float) -> dict[str, float]:
    """Node → how fast it works, as a share of its speed alone."""
    busy = sum(task.cores for task in running)
    shared = min(1.0, cores / busy) if busy else 1.0
    return {task.name: shared if task.cores else 1.0 for task in running}
