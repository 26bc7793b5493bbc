"""How many actors each stage gets and what each asks for, from what the cluster has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import ray

from capfilt.cluster.chain.watchdog import Limits
from capfilt.cluster.config import ClusterConfig, ClusterError


@dataclass(frozen=True)
class Share:
    """Actors of one stage and what each of them asks for."""

    actors: int
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Sizing:
    """The chain's stages on this cluster."""

    fetch: Share
    caption: Share
    filter: Share
    cpus: float
    gpus: float
    limits: Limits = field(default_factory=Limits)
    """Of every stage's process."""


def size(config: ClusterConfig) -> Sizing:
    """Divide the connected cluster among the stages.

    Raises:
        ClusterError: the config asks for GPUs that the cluster does not have.
    """
    resources = ray.cluster_resources()
    sizing = divide(config, cpus=resources.get("CPU", 1.0), gpus=resources.get("GPU", 0.0))
    memory = [node["Resources"]["memory"] for node in ray.nodes() if "memory" in node["Resources"]]
    return replace(sizing, limits=limit(config, memory))


def limit(config: ClusterConfig, memory: list[float]) -> Limits:
    """Limits of a stage's process, on nodes with so much memory (bytes). A single process that takes as much as all
    of a node's processes should is leaking; ended early, it does not take its neighbours along, as the node's own
    end or Ray's choice among its workers would. The largest node counts: a head is often small."""
    most = config.worker_memory_gb * 1e9 if config.worker_memory_gb is not None else max(memory, default=None)
    return Limits(stall_seconds=config.stall_seconds or None, memory=int(most) if most is not None else None)


def divide(config: ClusterConfig, *, cpus: float, gpus: float) -> Sizing:
    """Pure form of `size`. Captioning costs more than filtering (16 decoding steps against one text pass), so it
    gets 60 %. At least a quarter of the CPUs stay free for reading and writing."""
    fetch = Share(config.fetch_actors or max(1, int(cpus // 4)), min(0.5, cpus / 8), 0.0)
    if gpus > 0:
        each = config.gpus_per_actor or (1.0 if gpus >= 2 else 0.5)
        slots = max(2, int(gpus / each))
        caption = config.caption_actors or max(1, math.ceil(slots * 0.6) if slots > 2 else 1)
        judge = config.filter_actors or max(1, slots - caption)
        if (caption + judge) * each > gpus + 1e-6:
            raise ClusterError(
                f"cluster: {caption} captioners and {judge} filters at {each:g} GPU each need "
                f"{(caption + judge) * each:g} GPUs, the cluster has {gpus:g}; lower cluster.caption_actors, "
                "cluster.filter_actors or cluster.gpus_per_actor"
            )
        return Sizing(fetch, Share(caption, 0.0, each), Share(judge, 0.0, each), cpus, gpus)
    if config.gpus_per_actor is not None:
        raise ClusterError(
            f"cluster.gpus_per_actor: {config.gpus_per_actor:g} GPU asked for each actor, but the cluster has "
            "no GPU; leave the key out to run on CPUs"
        )
    models = max(2, int(cpus * 0.75 - fetch.actors * fetch.cpus))
    caption = config.caption_actors or max(1, models // 2)
    judge = config.filter_actors or max(1, models - caption if models > 3 else 1)
    # On fewer than four CPUs whole ones would leave none for reading and writing, and the chain would wait for ever.
    each = min(1.0, (cpus * 0.75 - fetch.actors * fetch.cpus) / (caption + judge))
    return Sizing(fetch, Share(caption, each, 0.0), Share(judge, each, 0.0), cpus, gpus)
