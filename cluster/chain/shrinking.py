"""Stop a chain whose actors no longer fit on a cluster that has lost nodes, so that it is restarted in a
smaller size.

Ray Data never reduces a fixed actor pool: the actors of a lost node wait for resources. If the other stages
hold all remaining resources, they wait forever, and the chain with them.
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

CHECK_INTERVAL_S = 2.0
"""Seconds between two checks of the cluster's resources."""
GRACE_S = 60.0
"""Seconds without a finished task after which a chain that no longer fits is stopped. Until then a
replacement node may join, and the actors that still run may finish tasks."""


class ClusterShrunk(RuntimeError):
    """The cluster has become too small for the chain that runs on it."""


@dataclass(frozen=True)
class Demand:
    """Resources that all actors of a chain request together."""

    cpus: float
    gpus: float

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Whether a cluster with these resources (`ray.cluster_resources()`) can hold all actors at once."""
        return self.cpus <= resources.get("CPU", 0.0) and self.gpus <= resources.get("GPU", 0.0)


class ShrinkWatch(ExecutionCallback):  # type: ignore[misc]
    """Callback of a Ray Data execution that stops it when it waits for resources that are gone.

    A chain on GPUs whose cluster has lost the last GPU keeps waiting for a new one: on CPUs it would take
    days.

    Args:
        demand: what the chain requests.
    """

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self._finished_tasks = -1
        self._last_check = self._last_progress = time.monotonic()

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Check the cluster from time to time. Ray calls this several times a second.

        Raises:
            ClusterShrunk: see `check`.
        """
        now = time.monotonic()
        if now - self._last_check < CHECK_INTERVAL_S:
            return
        self._last_check = now
        finished = sum(operator.metrics.num_tasks_finished for operator in executor._topology)
        self.check(now, finished, ray.cluster_resources())

    def check(self, now: float, finished_tasks: int, resources: Mapping[str, float]) -> None:
        """Check a state of the execution.

        Args:
            now: time of the state in seconds of a monotonic clock.
            finished_tasks: tasks that the execution has finished so far.
            resources: of the cluster.

        Raises:
            ClusterShrunk: the chain does not fit and no task has finished for `GRACE_S`.
        """
        waits_for_gpu = self.demand.gpus > 0 and not resources.get("GPU")
        if waits_for_gpu or self.demand.fits(resources) or finished_tasks != self._finished_tasks:
            self._last_progress, self._finished_tasks = now, finished_tasks
        elif now - self._last_progress >= GRACE_S:
            cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
            raise ClusterShrunk(
                f"the cluster has {cpus:g} CPUs and {gpus:g} GPUs left, "
                f"the actors of the chain need {self.demand.cpus:g} CPUs and {self.demand.gpus:g} GPUs"
            )


def shrink_callbacks(demand: Demand, resources: Mapping[str, float]) -> list[Callable[[], ShrinkWatch]]:
    """Factories of the callbacks for each execution of a chain that starts on a cluster with these resources.
    There are none if the chain does not fit from the start, which a config may request."""
    return [partial(ShrinkWatch, demand)] if demand.fits(resources) else []
