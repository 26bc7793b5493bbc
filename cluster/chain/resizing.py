"""End the pass of a chain early when the cluster has changed, so that the next pass is sized for it.

Ray Data never changes a fixed actor pool: the actors of a lost node wait for resources, and nodes that join
stay unused. A pass that is to end early drains: its first steps skip the shards that they have not begun,
those in flight are finished and committed, and the next pass runs over what is left in another size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import ray

from capfilt.cluster.chain.losses import PassEnded
from capfilt.cluster.chain.ray_internals import ExecutionState
from capfilt.cluster.machines import FETCH_CPU, LEAVING

CHECK_INTERVAL_S = 2.0
"""Seconds between two checks of the cluster's resources."""
SETTLE_S = 30.0
"""Seconds for which a cluster has to be larger, or too small, before a pass drains: nodes join one after
another, and a lost one may be replaced. Nobody waits when nodes have been told that they will be taken away:
they have half a minute or two to finish their shards."""
GRACE_S = 60.0
"""Seconds without a finished task after which a chain that no longer fits is stopped; longer if a shard takes
longer: what the remaining actors have begun is to be finished."""

MIN_PATIENCE_S, PATIENCE_FACTOR = 900.0, 4.0
"""A pass ends when no task has finished for this time, and this many times as long as the slowest shard took:
its engine hangs."""

Resources = Mapping[str, float]
"""As `cluster.machines.measure_machines` returns them."""


class ClusterShrunk(PassEnded):
    """The cluster has become too small for the chain that runs on it."""

    kind = "resized"


class ChainStalled(PassEnded):
    """A chain that fits on its cluster has finished no task for a long time."""


@dataclass(frozen=True)
class Demand:
    """Resources that all actors of a chain request together."""

    cpus: float
    gpus: float
    fetch_cpus: float = 0.0
    """Of the CPUs, those on machines that fetch; 0 if any machine will do."""

    def fits(self, resources: Resources) -> bool:
        """Whether a cluster with these resources can hold all actors at once."""
        return (
            self.cpus <= resources.get("CPU", 0.0)
            and self.gpus <= resources.get("GPU", 0.0)
            and self.fetch_cpus <= resources.get(FETCH_CPU, 0.0)
        )

    def lacks_a_kind(self, resources: Resources) -> bool:
        """Whether a cluster has no machine of a kind without which the chain cannot continue in any size."""
        return (self.gpus > 0 and not resources.get("GPU")) or (
            self.fetch_cpus > 0 and not resources.get(FETCH_CPU)
        )


@dataclass
class Resizing:
    """Decides when a pass ends early; the state of one pass, kept by the driver.

    A chain on GPUs whose cluster has lost the last GPU keeps waiting for a new one: on CPUs it would take
    days. So does one whose cluster has lost the last machine that fetches.
    """

    demand: Demand
    """What the chain requests. A chain that does not fit from the start is not watched for lost nodes: a
    config may request that."""
    fitted: bool
    """Whether it fits at the start."""
    can_grow: Callable[[Resources], bool]
    """Whether a chain that starts now would have more actors."""
    drain: Callable[[], None]
    """Lets the first steps skip the shards that they have not begun."""
    after: float
    """Seconds from the start of the pass in which it does not end for a larger cluster."""
    patience: Callable[[], float]
    """Seconds without a finished task after which the chain counts as stalled."""
    measure: Callable[[], Resources] = ray.cluster_resources
    """Returns what the cluster has now."""
    grace: Callable[[], float] = lambda: GRACE_S
    """Seconds without a finished task after which a chain that no longer fits is stopped."""
    on_waiting: Callable[[Sequence[int]], None] = lambda waiting: None
    """Receives how many shards wait before each step."""
    started: float = field(default_factory=time.monotonic)
    """Start of the pass, seconds of a monotonic clock."""
    reason: str | None = None
    """Why the pass drains; None while it does not."""

    def __post_init__(self) -> None:
        self._finished, self._progress_at, self._last_look = -1, self.started, self.started
        self._larger_since: float | None = None
        self._small_since: float | None = None

    def look(self, state: ExecutionState) -> None:
        """Check the cluster from time to time; called much more often.

        Raises:
            ClusterShrunk, ChainStalled: see `check`.
        """
        now = time.monotonic()
        if now - self._last_look < CHECK_INTERVAL_S:
            return
        self._last_look = now
        self.on_waiting(state.waiting)
        self.check(now, state.finished, self.measure())

    def check(self, now: float, finished: int, resources: Resources) -> None:
        """Check a state of the execution.

        Args:
            now: time of the state.
            finished: tasks that the execution has finished so far.
            resources: of the cluster.

        Raises:
            ClusterShrunk: the chain does not fit and no task has finished for `grace`.
            ChainStalled: it fits, and no task has finished for `patience`.
        """
        waits = self.demand.lacks_a_kind(resources)
        if waits or finished != self._finished:
            self._progress_at, self._finished = now, finished
        if waits:
            self._small_since = None
            return
        too_small = self.fitted and not self.demand.fits(resources)
        self._consider_draining(now, resources, too_small)
        idle = now - self._progress_at
        if too_small and idle >= self.grace():
            raise ClusterShrunk(self._describe_lack(resources))
        if not too_small and idle >= self.patience():
            raise ChainStalled(f"no task of the chain has finished for {idle / 60:.0f} minutes")

    def _consider_draining(self, now: float, resources: Resources, too_small: bool) -> None:
        larger = not too_small and self.can_grow(resources)
        self._small_since = (self._small_since or now) if too_small else None
        self._larger_since = (self._larger_since or now) if larger else None
        if self.reason is not None:
            return
        settle = 0.0 if resources.get(LEAVING) else SETTLE_S
        if self._small_since is not None and now - self._small_since >= settle:
            self._start_draining(self._describe_lack(resources))
        elif (
            self._larger_since is not None
            and now - self._larger_since >= SETTLE_S
            and now - self.started >= self.after
        ):
            self._start_draining(f"{_describe(resources)} now")

    def _start_draining(self, reason: str) -> None:
        self.reason = reason
        self.drain()

    def _describe_lack(self, resources: Resources) -> str:
        leaving = resources.get(LEAVING)
        note = f" (without the machines that will be taken away: {leaving:g})" if leaving else ""
        needs = f"the actors of the chain need {self.demand.cpus:g} CPUs and {self.demand.gpus:g} GPUs"
        return f"{_describe(resources)} left{note}, {needs}"


def _describe(resources: Resources) -> str:
    return f"the cluster has {resources.get('CPU', 0.0):g} CPUs and {resources.get('GPU', 0.0):g} GPUs"


def patience(slowest: float, is_busy: bool) -> float:
    """Seconds without a finished task after which a pass is ended.

    Args:
        slowest: seconds of all stages together of the slowest shard so far, 0 before the first one.
        is_busy: a process works on a shard or has yet to start. Before the first finished shard nobody knows
            how long that takes; a process that hangs on a shard is ended by its own watchdog.
    """
    if not slowest and is_busy:
        return float("inf")
    return max(MIN_PATIENCE_S, PATIENCE_FACTOR * slowest)


def grace(slowest: float) -> float:
    """Seconds without a finished task after which a chain that no longer fits is stopped.

    Args:
        slowest: as for `patience`.
    """
    return max(GRACE_S, slowest)
