"""Settings of the cluster. This module does not import Ray, so that a config is validated without it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt


@dataclass(frozen=True, kw_only=True)
class WaitConfig:
    """What a cluster has to have before a node of the run starts. A cluster that scales itself is asked for
    it."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    gpus: Annotated[float, Ge(0)] = 0
    """GPUs of all machines together."""
    cpus: Annotated[float, Ge(0)] = 0
    """CPUs of all machines together."""
    seconds: Annotated[float, Gt(0)] = 1800
    """Seconds after which the node fails if the cluster has less; the same command goes on later."""


@dataclass(frozen=True, kw_only=True)
class ActorRange:
    """How many actors a stage may have. The cluster decides within these limits."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    min: Annotated[int, Ge(1)] = 1
    """On GPUs fewer are refused, with one line; the same command goes on once the cluster is larger. On CPUs,
    and to fetch, each actor gets a smaller share of a CPU instead."""
    max: Annotated[int, Ge(1)] | None = None
    """More are not started, however large the cluster is; null = no limit."""

    def __post_init__(self) -> None:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"min {self.min} is above max {self.max}; lower min or raise max")

    def clamp(self, number: int) -> int:
        """The number of actors next to `number` that is allowed."""
        number = max(self.min, number)
        return number if self.max is None else min(self.max, number)


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """Limits of the actors of each stage."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fetch: ActorRange = field(default_factory=ActorRange)
    """Actors that fetch."""
    model: ActorRange = field(default_factory=ActorRange)
    """Actors that hold models: both of them where `fuse` puts both into each actor, else captioner replicas
    and filter replicas together, at least one of each."""
    captioner: ActorRange = field(default_factory=ActorRange)
    """Captioner replicas in actors of their own (see `fuse`). Those that `max` leaves out become filters."""
    filter: ActorRange = field(default_factory=ActorRange)
    """Filter replicas in actors of their own (see `fuse`). Those that `max` leaves out become captioners."""


LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?")
"""Names and values of Ray's labels."""
FIXED_ACTORS = {
    "fetch": "fetch_actors",
    "model": "model_actors",
    "captioner": "caption_actors",
    "filter": "filter_actors",
}
"""Keys of `ActorsConfig` → key of `ClusterConfig` that sets the number itself."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where a run executes and how many actors each stage gets. The cluster determines values not given."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    address: str = "auto"
    """`auto`: the cluster of this job (`ray job submit`) or of RAY_ADDRESS if there is one, otherwise a Ray
    instance started in this process; `local`: always a Ray instance started in this process; or
    `host:port`."""
    fetch_actors: Annotated[int, Ge(1)] | None = None
    """Actors that fetch; default: one per 4 CPUs of the cluster."""
    fuse: Literal["auto", "never"] = "auto"
    """`auto`: each actor holds captioner and filter; an image is decoded once for both, and texts do not
    leave the process. The models get actors of their own where the weights of both take more than half of a
    GPU's memory (without GPUs: of an actor's share of the machines' memory), and where the config sets or
    limits the number of captioners or filters. `never`: they always have actors of their own."""
    model_actors: Annotated[int, Ge(1)] | None = None
    """Actors that hold models (`actors.model`); default: one per GPU, or per CPU that the other stages
    leave, and at most one per shard."""
    caption_actors: Annotated[int, Ge(1)] | None = None
    """Captioner replicas in actors of their own. By default, replicas of both models are divided so that both
    take the same time: by the seconds of shards that are done, and evenly before the first one."""
    filter_actors: Annotated[int, Ge(1)] | None = None
    """Filter replicas in actors of their own; default: see `caption_actors`."""
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    """Limits within which the cluster determines the numbers of actors that are not given above."""
    gpus_per_actor: Annotated[float, Gt(0)] | None = None
    """GPUs (fractions allowed) requested by each actor that holds models; default: 1, or 0.5 if captioner and
    filter have actors of their own and the cluster has a single GPU."""
    wait_for: WaitConfig | None = None
    """Wait at the start of each node of the run until the cluster has these resources; for clusters whose
    machines come one after another. Machines that come later are used, too (`resize_seconds`)."""
    resize_seconds: Annotated[float, Ge(0)] = 600
    """A bootstrap or download that has run for so many seconds is resized when the cluster has grown:
    the shards in flight are finished, and the models are loaded again in as many replicas as fit. When
    machines are lost and the replicas no longer fit, that happens at once."""
    fetch_labels: dict[str, str] = field(default_factory=dict)
    """Labels of the machines that fetch, if only some of a cluster reach the web: `{pool: download}`
    names those of `ray start --labels=pool=download`. KubeRay and `ray up` label their groups by
    themselves (`ray.io/node-group`). A Ray instance started in this process needs none."""
    allow_cpu: bool | None = None
    """Whether models of more than 200 MB may be trained, evaluated and used on CPUs. By default only in a Ray
    instance started in this process: a cluster without GPUs usually waits for its GPU machines."""
    segment: Annotated[int, Ge(1)] = 2000
    """Shards per Ray Data execution; bounds the state that the driver holds at a time."""
    stall_seconds: Annotated[float, Ge(0)] = 900
    """Seconds without progress (no image fetched, no micro-batch captioned or scored) after which the worker
    process of a stage is terminated and the offending row is searched for; 0 = never."""
    worker_memory_gb: Annotated[float, Gt(0)] | None = None
    """Memory of a stage's worker process, in GB, above which the process is terminated and the offending row
    is searched for; default: the memory of the largest node as Ray reports it."""
    object_store_gb: Annotated[float, Gt(0)] | None = None
    """Object store of a Ray instance started in this process, in GB; default: Ray's own choice."""

    def __post_init__(self) -> None:
        for name, value in self.fetch_labels.items():
            if not LABEL.fullmatch(name) or not LABEL.fullmatch(value):
                raise ValueError(
                    f"fetch_labels: {name!r}: {value!r} is no label; names and values consist of letters, "
                    "digits and . _ - / and begin and end with a letter or a digit"
                )
        for stage, key in FIXED_ACTORS.items():
            if getattr(self, key) is not None and getattr(self.actors, stage) != ActorRange():
                raise ValueError(f"{key} and actors.{stage} are both given; remove one of them")
        if (of_both := self._given("model")) and (of_one := self._given("captioner", "filter")):
            raise ValueError(f"{of_both} and {of_one} are both given; remove one of them")

    def _given(self, *stages: str) -> str | None:
        """The first key that sets or limits the number of actors of one of the stages."""
        for stage in stages:
            if getattr(self, FIXED_ACTORS[stage]) is not None:
                return FIXED_ACTORS[stage]
            if getattr(self.actors, stage) != ActorRange():
                return f"actors.{stage}"
        return None

    @property
    def may_fuse(self) -> bool:
        """Whether captioner and filter may share actors."""
        return self.fuse == "auto" and self._given("captioner", "filter") is None

    def actor_range(self, stage: str) -> ActorRange:
        """How many actors a stage may have.

        Args:
            stage: a key of `ActorsConfig`.
        """
        fixed: int | None = getattr(self, FIXED_ACTORS[stage])
        limits: ActorRange = getattr(self.actors, stage)
        return limits if fixed is None else ActorRange(min=fixed, max=fixed)


def is_ray_job() -> bool:
    """Whether this process is the driver of a Ray job (`ray job submit`, KubeRay's RayJob)."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # Ray's job supervisor sets it for the driver alone


class ClusterError(RuntimeError):
    """The cluster cannot be reached or lacks the resources that the config requests."""


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Workers of a training node."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    workers: Annotated[int, Ge(1)] = 1
    """Data-parallel workers; the global batch is divided among them."""
    cpus_per_worker: Annotated[float, Gt(0)] = 1
    """CPUs requested by each worker; also its number of torch threads when it has no GPU."""
    gpus_per_worker: Annotated[float, Ge(0)] | None = None
    """GPUs requested by each worker; default: 1 if the cluster has GPUs, otherwise 0."""
    max_failures: Annotated[int, Ge(0)] = 3
    """Worker failures that a training survives; each repeats the steps since the last checkpoint."""
    checkpoint_every: Annotated[int, Ge(1)] = 1000
    """Steps between two checkpoints; a checkpoint holds everything that a resume needs."""
    log_every: Annotated[int, Ge(1)] = 50
    """Steps whose losses are copied from the device and logged together; copying each would make every step
    wait for it."""
