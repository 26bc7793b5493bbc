"""A chain on a cluster that loses nodes: when what is left cannot hold it, it ends, to begin anew in another size.

Ray Data keeps a stage's actors whatever happens: those of a lost node wait for a place. Where the rest of the cluster is
taken by other stages they wait for ever, and the chain with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

LOOKS_S = 2.0
"""Pause between two looks at the cluster."""
PATIENCE_S = 60.0
"""Seconds without a finished task after which a chain that does not fit any more is ended: a new node may come, and what
still has a place may do."""


class ClusterShrunk(RuntimeError):
    """The cluster has become too small for the chain that runs on it."""


@dataclass(frozen=True)
class Demand:
    """What all actors of a chain ask for together."""

    cpus: float
    gpus: float

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Whether a cluster with these resources (`ray.cluster_resources()`) has room for them all."""
        return self.cpus <= resources.get("CPU", 0.0) and self.gpus <= resources.get("GPU", 0.0)


class ShrinkWatch(ExecutionCallback):  # type: ignore[misc]
    """Ends an execution that waits for room which is gone. Ray calls it several times a second.

    One that has lost its last GPU is left alone: on CPUs the chain would take days, so that it waits for another.

    Args:
        demand: of the chain.
    """

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self._finished = -1
        self._looked = self._since = time.monotonic()

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Raises:
        ClusterShrunk: nothing gets further, and the chain fits no more.
        """
        now = time.monotonic()
        if now - self._looked < LOOKS_S:
            return
        self._looked = now
        self.look(
            now,
            sum(operator.metrics.num_tasks_finished for operator in executor._topology),
            ray.cluster_resources(),
        )

    def look(self, now: float, finished: int, resources: Mapping[str, float]) -> None:
        """As above, for `finished` tasks at time `now`."""
        waits = self.demand.gpus > 0 and not resources.get("GPU")
        if waits or self.demand.fits(resources) or finished != self._finished:
            self._since, self._finished = now, finished
        elif now - self._since >= PATIENCE_S:
            raise ClusterShrunk(
                f"the cluster has {resources.get('CPU', 0.0):g} CPUs and {resources.get('GPU', 0.0):g} GPUs left, and "
                f"the chain's actors ask for {self.demand.cpus:g} and {self.demand.gpus:g}"
            )


def watches_of(demand: Demand, resources: Mapping[str, float]) -> list[Callable[[], ShrinkWatch]]:
    """Makers of what watches every execution of a chain that begins on a cluster with these resources: nothing where
    the chain has too little room from the beginning, as the config may want it."""
    return [partial(ShrinkWatch, demand)] if demand.fits(resources) else []
