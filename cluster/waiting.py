"""Wait until a cluster whose machines come one after another has what a run needs."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray
from ray.autoscaler.sdk import request_resources

from capfilt.cluster.config import ClusterError, WaitConfig

POLL_S = 2.0
"""Seconds between two looks at the cluster."""


def wait_for_resources(
    wanted: WaitConfig, describe: Callable[[str], None], is_stopping: Callable[[], bool]
) -> None:
    """Wait until the cluster has the wanted resources, or the run is stopping.

    A cluster that scales itself starts machines only for what somebody asks for, so they are asked for.

    Args:
        describe: shows a line while waiting.

    Raises:
        ClusterError: the cluster has less after `wanted.seconds`.
    """
    lacking = describe_lack(wanted)
    if lacking is None:
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
            lacking = describe_lack(wanted)
    finally:
        request_resources(bundles=[])


def describe_lack(wanted: WaitConfig) -> str | None:
    """What the cluster lacks, in one line; None if it lacks nothing."""
    resources = ray.cluster_resources()
    lacks = [
        f"{resources.get(name, 0.0):g} of {number:g} {name}s"
        for name, number in (("GPU", wanted.gpus), ("CPU", wanted.cpus))
        if resources.get(name, 0.0) < number
    ]
    return f"the cluster has {' and '.join(lacks)}" if lacks else None
