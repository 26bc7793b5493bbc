"""Calls of a function on the cluster, such as evaluations of several models, each in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ray

from capfilt.cluster.sizing import Sizing
from capfilt.cluster.threads import cpus_of_each

MAX_RETRIES = 3
"""Retries of a call whose process died. Ray's default is unlimited."""


def map_remote(
    function: Callable[[Any], Any], items: Sequence[Any], *, cpus: float, gpus: float
) -> list[Any]:
    """`[function(item) for item in items]`, with each call in a process of its own on the cluster.

    Args:
        function: picklable.
        items: picklable.
        cpus, gpus: requested by each call (`resources_of_call`).

    Raises:
        ray.exceptions.RayTaskError: with the function's own error inside.
    """
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_RETRIES)(_call_with_threads)
    return list(ray.get([remote.remote(function, item) for item in items]))


def resources_of_call(sizing: Sizing, calls: int) -> dict[str, float]:
    """What each of several calls of a model that run side by side requests (`map_remote`).

    Without a GPU these are several CPUs, as far as the smallest machine has them for all of its calls.
    """
    if sizing.gpus:
        return {"cpus": 1.0, "gpus": min(1.0, sizing.gpus)}
    return {"cpus": cpus_of_each(calls), "gpus": 0.0}


def _call_with_threads(function: Callable[[Any], Any], item: Any) -> Any:
    """`function(item)` with as many threads of torch as Ray has set for this call: a process that an earlier
    call has used keeps those of that call."""
    torch, threads = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and threads.isdecimal():
        torch.set_num_threads(int(threads))
    return function(item)
