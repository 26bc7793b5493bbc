"""What the machines of the connected cluster have, in all and of the kind that may fetch."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import ray

from capfilt.cluster.config import ClusterConfig
from capfilt.cluster.session import is_embedded

FETCH_CPU = "CPU of machines that fetch"
"""CPUs of the machines with `cluster.fetch_labels`; beside Ray's names, and only on a cluster with labels."""
LEAVING = "machines that leave"
"""Machines that are still at work and will be taken away; beside Ray's names, and only if there are any."""


def measure_machines(config: ClusterConfig) -> dict[str, float]:
    """Resources of all machines that are alive and stay, under Ray's names, `FETCH_CPU` and `LEAVING`.

    A Ray instance that is started in this process has no labels: the machine does everything.
    """
    resources = dict(ray.cluster_resources())
    if is_embedded(config):
        return resources
    notified = notified_machines()
    alive = [node for node in ray.nodes() if node["Alive"]]
    leaving = [node for node in alive if node["NodeID"] in notified]
    for node in leaving:
        for name, amount in node["Resources"].items():
            resources[name] = resources.get(name, 0.0) - amount
    if leaving:
        resources[LEAVING] = float(len(leaving))
    if config.fetch_labels:
        resources[FETCH_CPU] = sum(
            node["Resources"].get("CPU", 0.0)
            for node in alive
            if node not in leaving and has_labels(node["Labels"], config.fetch_labels)
        )
    return resources


def machine_cpus() -> list[float]:
    """CPUs of each machine that has at least one; [1.0] if there is none."""
    cpus = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return [each for each in cpus if each >= 1] or [1.0]


def notified_machines() -> Collection[str]:
    """Ids of the machines that Ray is draining, such as spot machines with a preemption notice. Ray schedules
    no new work there; `ray.nodes()` does not say which ones they are."""
    found: Collection[str] = ray._private.state.state.get_draining_nodes()
    return found


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a machine with these labels is one of those that are wanted."""
    return all(labels.get(name) == value for name, value in wanted.items())


def describe_labels(labels: Mapping[str, str]) -> str:
    """`name=value` of each label, as `ray start --labels` takes them."""
    return ",".join(f"{name}={value}" for name, value in labels.items())
