"""Ask every node of the connected cluster a question."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import ray.util
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from capfilt.cluster.config import ClusterError

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
ANSWER_SECONDS = 120
"""Limit for the answers of all nodes: each starts a worker process, which imports the program."""
DRIVER_SECONDS = 30
"""Limit for the answer of a machine's GPU driver."""


def working_nodes() -> dict[str, str]:
    """{id: address} of the nodes that run workers; a head without CPUs and GPUs runs none."""
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU"))
    }


def count_nodes() -> int:
    """Nodes of the cluster that are alive, the head among them."""
    return sum(node["Alive"] for node in ray.nodes())


def driver_address() -> str:
    """Address at which the workers of the cluster reach this process: that of its node; the loopback address
    of a Ray instance that was started in this process."""
    return str(ray.util.get_node_ip_address())


def ask_each_node(question: Callable[..., Answer], *arguments: Any) -> list[tuple[str, Answer]]:
    """Call a function by a task on each node that runs workers.

    A node that dies meanwhile is left out: it will run nothing.

    Returns:
        (address of the node, the function's result).

    Raises:
        ClusterError: a node does not answer in time, or the function raises there.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(question)
    asked = {}
    for node, address in working_nodes().items():
        on_node = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[task.options(scheduling_strategy=on_node).remote(*arguments)] = address
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    if late:
        silent = ", ".join(asked[each] for each in late)
        raise ClusterError(
            f"cluster: {silent} did not run a task within {ANSWER_SECONDS} s; "
            "compare `ray status`, and see whether a file system hangs there"
        )
    found = []
    for reference, address in asked.items():
        try:
            found.append((address, ray.get(reference)))
        except RayTaskError as error:
            raise ClusterError(
                f"cluster: node {address} cannot run the program ({_last_line(error)})"
            ) from error
        except RayError:  # the node is gone, or its worker was killed
            if any(node["NodeManagerAddress"] == address and node["Alive"] for node in ray.nodes()):
                raise
    return found


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def smallest_gpu_memory() -> int | None:
    """Bytes of the smallest GPU of the connected cluster; None if no node tells."""
    try:
        sizes = [size for _, size in ask_each_node(read_gpu_memory) if size is not None]
    except (ClusterError, RayError) as error:
        log.warning("the memory of the GPUs is not known (%s)", error)
        return None
    return min(sizes, default=None)


def read_gpu_memory() -> int | None:
    """Bytes of the smallest GPU of this machine; None if there is none, or no NVIDIA driver that tells."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            check=True,
            text=True,
            timeout=DRIVER_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    mebibytes = [int(line) for line in found.stdout.split() if line.isdecimal()]
    return min(mebibytes) << 20 if mebibytes else None
