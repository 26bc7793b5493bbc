"""Wait until a cluster whose machines come one after another has what a run needs."""

from __future__ import annotations

import time
from collections.abc import Callable

from ray.autoscaler.sdk import request_resources

from capfilt.cluster.config import ClusterConfig, ClusterError
from capfilt.cluster.machines import FETCH_CPU, describe_labels, measure_machines

POLL_S = 2.0
"""Seconds between two looks at the cluster."""


def wait_for_resources(
    config: ClusterConfig, describe: Callable[[str], None], is_stopping: Callable[[], bool]
) -> None:
    """Wait until the cluster has what `wait_for` names, or the run is stopping; without the key, do nothing.

    A cluster that scales itself starts machines only for what somebody asks for, so they are asked for.

    Args:
        describe: shows a line while waiting.

    Raises:
        ClusterError: the cluster has less after `wait_for.seconds`.
    """
    wanted, lacking = config.wait_for, describe_lack(config)
    if wanted is None or lacking is None:
        return
    deadline = time.monotonic() + wanted.seconds
    bundles = [{"GPU": 1.0}] * round(wanted.gpus) + [{"CPU": 1.0}] * round(wanted.cpus)
    request_resources(bundles=bundles)
    try:
        while lacking is not None and not is_stopping():
            if time.monotonic() >= deadline:
                raise ClusterError(
                    f"{lacking} after {wanted.seconds:g} s (cluster.wait_for); start more machines, or wait "
                    "for fewer; the same command goes on"
                )
            describe(f"waiting: {lacking}")
            time.sleep(POLL_S)
            lacking = describe_lack(config)
    finally:
        request_resources(bundles=[])


def describe_lack(config: ClusterConfig) -> str | None:
    """What the cluster lacks of `wait_for`, in one line; None if it lacks nothing."""
    if (wanted := config.wait_for) is None:
        return None
    resources = measure_machines(config)
    lacks = [
        f"{resources.get(name, 0.0):g} of {number:g} {name}s"
        for name, number in (("GPU", wanted.gpus), ("CPU", wanted.cpus))
        if resources.get(name, 0.0) < number
    ]
    if resources.get(FETCH_CPU) == 0:
        lacks.append(f"no machine with the labels {describe_labels(config.fetch_labels)}")
    return f"the cluster has {' and '.join(lacks)}" if lacks else None
