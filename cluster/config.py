"""Settings of cluster/. Ray is not imported here: a config is read and refused without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the work runs and how many actors each stage gets; nothing given = taken from the cluster."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    address: str = "auto"
    """`auto`: the cluster of this job (`ray job submit`) or of RAY_ADDRESS, else a Ray started inside this
    process; `local`: always the latter; or `host:port`."""
    fetch_actors: Annotated[int, Ge(1)] | None = None
    """Fetchers; by default one per 4 CPUs of the cluster."""
    caption_actors: Annotated[int, Ge(1)] | None = None
    """Captioner replicas; by default about 60 % of the GPUs, or a third of the CPUs where there is no GPU."""
    filter_actors: Annotated[int, Ge(1)] | None = None
    """Filter replicas; by default the other GPUs or CPUs."""
    gpus_per_actor: Annotated[float, Gt(0)] | None = None
    """GPUs (or a share of one) each captioner and filter replica asks for; by default 1, or 0.5 on one GPU."""
    segment: Annotated[int, Ge(1)] = 2000
    """Shards per Ray Data execution: what the driver keeps in mind at a time."""
    stall_seconds: Annotated[float, Ge(0)] = 900
    """A stage that gets no further for so long (no image fetched, no micro-batch captioned or judged) is ended, and
    the row at fault is found; 0 = never."""
    worker_memory_gb: Annotated[float, Gt(0)] | None = None
    """Memory at which the process of a stage is ended, and the row at fault is found, in GB; by default what Ray
    counts as memory of the largest node."""
    object_store_gb: Annotated[float, Gt(0)] | None = None
    """Object store of an embedded Ray, in GB; Ray's own choice when not given."""


class ClusterError(RuntimeError):
    """The cluster cannot be reached or has not what the run needs."""


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """Workers of a training node."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    workers: Annotated[int, Ge(1)] = 1
    """Data-parallel workers; the global batch is divided among them."""
    cpus_per_worker: Annotated[float, Gt(0)] = 1
    """CPUs each worker asks for, and its torch threads where it has no GPU."""
    gpus_per_worker: Annotated[float, Ge(0)] | None = None
    """GPUs each worker asks for; by default 1 where the cluster has GPUs."""
    max_failures: Annotated[int, Ge(0)] = 3
    """Worker deaths after which the node fails; each costs the steps since the last checkpoint."""
    checkpoint_every: Annotated[int, Ge(1)] = 1000
    """Steps between checkpoints of everything a resume needs."""
