"""What the machines of the connected cluster have, in all and of the kind that may fetch."""

from __future__ import annotations

from collections.abc import Mapping

import ray

from capfilt.cluster.config import ClusterConfig
from capfilt.cluster.session import is_embedded

FETCH_CPU = "CPU of machines that fetch"
"""CPUs of the machines with `cluster.fetch_labels`; beside Ray's names, and only on a cluster with labels."""


def measure_machines(config: ClusterConfig) -> dict[str, float]:
    """Resources of all machines that are alive, under Ray's names and `FETCH_CPU`.

    A Ray instance that is started in this process has no labels: the machine does everything.
    """
    resources = dict(ray.cluster_resources())
    if config.fetch_labels and not is_embedded(config):
        resources[FETCH_CPU] = sum(
            node["Resources"].get("CPU", 0.0)
            for node in ray.nodes()
            if node["Alive"] and has_labels(node["Labels"], config.fetch_labels)
        )
    return resources


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a machine with these labels is one of those that are wanted."""
    return all(labels.get(name) == value for name, value in wanted.items())


def describe_labels(labels: Mapping[str, str]) -> str:
    """`name=value` of each label, as `ray start --labels` takes them."""
    return ",".join(f"{name}={value}" for name, value in labels.items())
