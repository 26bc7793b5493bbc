"""Derive from the cluster's resources how many actors each stage gets and what each actor requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import ray

from capfilt.cluster.chain.watchdog import Limits
from capfilt.cluster.config import FIXED_ACTORS, ClusterConfig, ClusterError
from capfilt.cluster.machines import FETCH_CPU, describe_labels, measure_machines
from capfilt.cluster.nodes import smallest_gpu_memory
from capfilt.cluster.threads import CPU_SHARE, MOST_CPUS, cpus_of_each

CPUS_PER_FETCH_ACTOR = 4
"""CPUs of the cluster for each actor that fetches."""
FETCH_CPUS = 0.5
"""CPUs requested by an actor that fetches; less on fewer than four CPUs, or with many such actors."""
FETCH_SHARE = 0.25
"""Share of the CPUs that all actors that fetch may request together, however many the config asks for."""
CAPTION_SHARE = 0.5
"""Share of captioning in the time of both models before any shard tells. Both encode each image, which takes
most of their time."""
WEIGHTS_SHARE = 0.5
"""Share of an actor's memory that the weights of fused models may take; the rest is for what they compute."""


@dataclass(frozen=True)
class ActorPool:
    """Number of actors of one stage and the CPUs and GPUs that each of them requests."""

    actors: int
    cpus: float
    gpus: float
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the machines that may hold them; empty = any."""


@dataclass(frozen=True, kw_only=True)
class ModelLoad:
    """What is known of captioner and filter before they are loaded."""

    weights: int | None = None
    """Bytes of their checkpoints together; None: unknown, as of a model of the hub."""
    caption_share: float | None = None
    """Share of captioning in the seconds of both on shards that are done; None before the first one."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How captioner and filter are divided among the actors that hold models."""

    fused: bool = False
    """Both are in the same actors."""
    caption_share: float = CAPTION_SHARE
    """Share of captioning in the time of both models, by which actors of their own are divided."""
    shards: int | None = None
    """Shards of the node. An actor works on one at a time, so there are no more fused actors than shards.
    None: unknown; then their number is not limited."""
    most_cpus: int = MOST_CPUS
    """CPUs that one actor may request, because one machine has to have them."""


@dataclass(frozen=True)
class Sizing:
    """Resources of a chain on one cluster."""

    fetch: ActorPool
    caption: ActorPool
    filter: ActorPool
    cpus: float
    """CPUs of the cluster."""
    gpus: float
    """GPUs of the cluster."""
    fetch_cpus: float | None = None
    """CPUs of the machines that fetch; None if all do."""
    limits: Limits = field(default_factory=Limits)
    """Limits of each stage's worker process."""
    split: Split = field(default_factory=Split)
    """If captioner and filter are in the same actors, `caption` and `filter` are one pool."""

    @property
    def resources(self) -> dict[str, float]:
        """As `measure_machines` returns them."""
        resources = {"CPU": self.cpus, "GPU": self.gpus}
        return resources if self.fetch_cpus is None else resources | {FETCH_CPU: self.fetch_cpus}

    def is_exceeded_by(self, other: Sizing) -> bool:
        """Whether another sizing has more actors in a stage and fewer in none."""
        ours = (self.fetch.actors, self.caption.actors, self.filter.actors)
        theirs = (other.fetch.actors, other.caption.actors, other.filter.actors)
        return ours != theirs and all(few <= many for few, many in zip(ours, theirs, strict=True))

    def without_captioners(self, config: ClusterConfig) -> Sizing:
        """The same for a chain that only filters: filters take the place of captioners, unless the config
        says how many filters there are."""
        if self.split.fused or config.filter_actors is not None:
            return self
        actors = config.actor_range("filter").clamp(self.caption.actors + self.filter.actors)
        return replace(self, filter=replace(self.filter, actors=actors))


def divide_cluster(
    config: ClusterConfig, models: ModelLoad | None = None, shards: int | None = None
) -> Sizing:
    """Divide the connected cluster among the stages.

    Args:
        models: the models of a chain that captions.
        shards: of the node, also those that are done, so that a run that is resumed has the same sizing.

    Raises:
        ClusterError: the config requests machines that the cluster does not have.
    """
    models = models or ModelLoad()
    resources = measure_machines(config)
    node_memory = [node["Resources"]["memory"] for node in ray.nodes() if "memory" in node["Resources"]]
    share = CAPTION_SHARE if models.caption_share is None else models.caption_share
    split = Split(fused=config.may_fuse, caption_share=share, shards=shards)
    if shards is not None:
        split = replace(split, most_cpus=int(cpus_of_each(shards)))
    sizing = _divide(config, resources, split)
    if sizing.split.fused and models.weights is not None:
        memory = smallest_gpu_memory() if sizing.gpus else sum(node_memory) or None
        if not fits_together(models.weights, sizing.caption, memory):
            sizing = _divide(config, resources, replace(split, fused=False))
    return replace(sizing, limits=process_limits(config, node_memory))


def fits_together(weights: int, pool: ActorPool, memory: float | None) -> bool:
    """Whether each actor of a pool has room for both models.

    Args:
        weights: bytes of both checkpoints. In bfloat16 they take half of it.
        memory: bytes of the smallest GPU, or of all machines together where there is none; None: unknown,
            which is taken for enough, because a single GPU holds both models in any case.
    """
    if memory is None:
        return True
    own = memory * min(1.0, pool.gpus) if pool.gpus else memory / pool.actors
    return weights <= WEIGHTS_SHARE * own


def can_grow(config: ClusterConfig, sizing: Sizing, resources: Mapping[str, float]) -> bool:
    """Whether a chain that has this sizing would have more actors on a cluster with these resources.

    Args:
        resources: as `measure_machines` returns them.
    """
    try:
        other = _divide(config, resources, sizing.split)
    except ClusterError:  # the cluster has become smaller
        return False
    return sizing.is_exceeded_by(other)


def _divide(config: ClusterConfig, resources: Mapping[str, float], split: Split) -> Sizing:
    return divide_resources(
        config,
        cpus=resources.get("CPU", 1.0),
        gpus=resources.get("GPU", 0.0),
        fetch_cpus=resources.get(FETCH_CPU),
        split=split,
    )


def process_limits(config: ClusterConfig, node_memory: Sequence[float]) -> Limits:
    """Limits of each stage's worker process.

    By default a process may use the memory of the largest node (a head node is often small). A single process
    that uses as much as all processes of a node should use together is leaking. Terminating it early protects
    the other processes, one of which the kernel or Ray might otherwise choose to kill.

    Args:
        config: may set the limits.
        node_memory: bytes of memory of each node.
    """
    if config.worker_memory_gb is not None:
        memory: float | None = config.worker_memory_gb * 1e9
    else:
        memory = max(node_memory, default=None)
    return Limits(stall_seconds=config.stall_seconds or None, memory=None if memory is None else int(memory))


def divide_resources(
    config: ClusterConfig,
    *,
    cpus: float,
    gpus: float,
    fetch_cpus: float | None = None,
    split: Split | None = None,
) -> Sizing:
    """`divide_cluster` for a cluster of so many CPUs and GPUs.

    Args:
        fetch_cpus: CPUs of the machines that fetch; None if all do.
        split: by default both models share actors if the config allows it.

    Raises:
        ClusterError: the config requests machines that the cluster does not have.
    """
    split = Split(fused=config.may_fuse) if split is None else split
    if fetch_cpus == 0:
        labels = describe_labels(config.fetch_labels)
        raise ClusterError(
            f"cluster.fetch_labels: no machine has the labels {labels}; start one with "
            f"`ray start --labels={labels}`, or remove the key"
        )
    if not gpus and config.gpus_per_actor is not None:
        raise ClusterError(
            f"cluster.gpus_per_actor is {config.gpus_per_actor:g}, but the cluster has no GPU; "
            "remove the key to run on CPUs"
        )
    fetch = _divide_fetch_cpus(config, cpus if fetch_cpus is None else fetch_cpus)
    if fetch_cpus is not None:
        fetch = replace(fetch, labels=config.fetch_labels)
    left = cpus * CPU_SHARE - fetch.actors * fetch.cpus
    if split.fused:
        caption = filter_ = _share_gpus(config, gpus, split) if gpus else _share_cpus(config, left, split)
    elif gpus:
        caption, filter_ = _divide_gpus(config, gpus, split.caption_share)
    else:
        caption, filter_ = _divide_cpus(config, left, split.caption_share)
    return Sizing(fetch, caption, filter_, cpus, gpus, fetch_cpus, split=split)


def _divide_fetch_cpus(config: ClusterConfig, cpus: float) -> ActorPool:
    """Actors that fetch on machines with so many CPUs."""
    actors = config.actor_range("fetch").clamp(max(1, int(cpus // CPUS_PER_FETCH_ACTOR)))
    return ActorPool(actors, min(FETCH_CPUS, cpus / 8, cpus * FETCH_SHARE / actors), 0.0)


def _share_gpus(config: ClusterConfig, gpus: float, split: Split) -> ActorPool:
    """Actors with both models on the GPUs of a cluster."""
    each = config.gpus_per_actor or min(1.0, gpus)
    actors = _limit(max(1, int(gpus / each + 1e-9)), config, split)
    if actors * each > gpus + 1e-6:
        raise ClusterError(
            f"cluster: {actors} actors with captioner and filter, with {each:g} GPU each, need "
            f"{actors * each:g} GPUs, the cluster has {gpus:g}; lower {_asking_key(config, 'model')} or "
            "cluster.gpus_per_actor"
        )
    return ActorPool(actors, 0.0, each)


def _share_cpus(config: ClusterConfig, cpus: float, split: Split) -> ActorPool:
    """Actors with both models on so many CPUs of a cluster without GPUs. Where there are fewer shards than
    CPUs, each actor has several."""
    wanted = config.actor_range("model").clamp(max(1, round(cpus)))
    actors = _limit(wanted, config, split)
    each = min(wanted // actors, split.most_cpus, int(cpus / actors))
    return ActorPool(actors, float(each) if each > 1 else min(1.0, cpus / actors), 0.0)


def _limit(actors: int, config: ClusterConfig, split: Split) -> int:
    """So many fused actors, in the limits of the config and at most one for each shard."""
    most = actors if split.shards is None else min(actors, max(1, split.shards))
    return config.actor_range("model").clamp(most)


def _divide_gpus(config: ClusterConfig, gpus: float, caption_share: float) -> tuple[ActorPool, ActorPool]:
    """Captioners and filters on the GPUs of a cluster."""
    each = config.gpus_per_actor or (1.0 if gpus >= 2 else 0.5)
    slots = config.actor_range("model").clamp(max(2, int(gpus / each)))
    captioners, filters = _divide_slots(config, slots, caption_share)
    requested = (captioners + filters) * each
    if requested > gpus + 1e-6:
        limiting = ("model",) if config.actor_range("model").min > 1 else ("captioner", "filter")
        keys = ", ".join(_asking_key(config, stage) for stage in limiting)
        raise ClusterError(
            f"cluster: {captioners} captioners and {filters} filters with {each:g} GPU each need "
            f"{requested:g} GPUs, the cluster has {gpus:g}; lower {keys} or cluster.gpus_per_actor"
        )
    return ActorPool(captioners, 0.0, each), ActorPool(filters, 0.0, each)


def _divide_cpus(config: ClusterConfig, cpus: float, caption_share: float) -> tuple[ActorPool, ActorPool]:
    """Captioners and filters on so many CPUs of a cluster without GPUs."""
    # Of three, one stays idle rather than give one model two actors.
    slots = config.actor_range("model").clamp(int(cpus) if cpus >= 4 else 2)
    captioners, filters = _divide_slots(config, slots, caption_share)
    # If the actors requested whole CPUs on a cluster of fewer than four, no CPU would be left for the tasks
    # that read and write, and the chain would wait forever.
    each = min(1.0, cpus / (captioners + filters))
    return ActorPool(captioners, each, 0.0), ActorPool(filters, each, 0.0)


def _divide_slots(config: ClusterConfig, slots: int, caption_share: float) -> tuple[int, int]:
    """Captioners and filters in the limits of the config, as many as take the same time.

    Args:
        slots: actors for which there is room.
        caption_share: of captioning in the time of both.
    """
    slots = max(2, slots)

    def seconds(captioners: int) -> float:
        return max(caption_share / captioners, (1 - caption_share) / (slots - captioners))

    captioners = config.actor_range("captioner").clamp(min(range(slots - 1, 0, -1), key=seconds))
    wanted = max(1, slots - captioners)
    filters = config.actor_range("filter").clamp(wanted)
    if filters != wanted and config.filter_actors is None:
        captioners = config.actor_range("captioner").clamp(slots - filters)
    return captioners, filters


def _asking_key(config: ClusterConfig, stage: str) -> str:
    """The key of the config by which a stage has too many actors."""
    limited = getattr(config.actors, stage).min > 1
    return f"cluster.actors.{stage}.min" if limited else f"cluster.{FIXED_ACTORS[stage]}"
