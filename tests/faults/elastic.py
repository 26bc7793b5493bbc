"""A cluster on one machine whose GPU nodes come and go while a run works, and what the run did on each."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ray._private.services import node_ip_address_from_perspective
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from tests.faults.harness import inject_pythonpath

STORE_BYTES = 100_000_000
"""Object store of each node."""


FETCH_LABELS = {"pool": "download"}
"""Labels of the head, the only machine that reaches the web."""


class ElasticCluster:
    """A head with CPUs, to which nodes with simulated GPUs are added. The stages of runs on it are traced,
    and take longer until `speed_up` is called.

    Args:
        folder: for the trace.
        seconds: stage → seconds that it takes longer for each shard.
        head_cpus: CPUs of the head.
    """

    def __init__(self, folder: Path, seconds: Mapping[str, float], head_cpus: int = 4) -> None:
        self.trace, self._fast = folder / "trace", folder / "fast"
        self.head_cpus = head_cpus
        pace = {"trace": str(self.trace), "seconds": dict(seconds), "until": str(self._fast)}
        self._settings = {
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "CAPFILT_PACE": json.dumps(pace),
            "PYTHONPATH": inject_pythonpath(),
        }

    def __enter__(self) -> ElasticCluster:
        # An embedded Ray in this process would otherwise hand its loopback address to the nodes.
        self._common = {
            "node_ip_address": node_ip_address_from_perspective(),
            "object_store_memory": STORE_BYTES,
        }
        with variables_set(self._settings):
            head = {"num_cpus": self.head_cpus, "labels": FETCH_LABELS, "include_dashboard": False}
            self._cluster = Cluster(initialize_head=True, head_node_args=head | self._common)
            self.head = self._cluster.head_node
        self.environment = self._settings | {"RAY_ADDRESS": self._cluster.address}
        return self

    def add(self, number: int = 1, **resources: Any) -> list[Any]:
        """Add equal nodes; by default with one GPU and one CPU each.

        Args:
            resources: arguments of `Cluster.add_node`.
        """
        wanted = {"num_cpus": 1, "num_gpus": 1} | resources
        with variables_set(self._settings):
            return [self._cluster.add_node(**wanted, **self._common) for _ in range(number)]

    def kill(self, nodes: list[Any]) -> None:
        """Kill all processes of nodes at once, as when machines are taken back without notice."""
        for node in nodes:
            self._cluster.remove_node(node, allow_graceful=False)

    def give_notice(self, nodes: list[Any], seconds: int) -> None:
        """Tell Ray that nodes will be taken away after so many seconds, as the agent on a spot machine does.
        Nothing ends them."""
        client = GcsClient(address=self._cluster.address)
        preemption = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int((time.time() + seconds) * 1000)
        for node in nodes:
            accepted, refusal = client.drain_node(node.node_id, preemption, "taken back", deadline)
            assert accepted, refusal

    def speed_up(self) -> None:
        """Let the stages take no longer than they need."""
        self._fast.touch()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.shutdown()

    def events(self, stage: str, event: str, nodes: list[Any] | None = None) -> list[dict[str, Any]]:
        """What the stages have traced so far.

        Args:
            stage, event: "begin" or "end" of a shard in a stage.
            nodes: only on these.
        """
        if not self.trace.exists():
            return []
        ids = None if nodes is None else {node.node_id for node in nodes}
        lines = [json.loads(line) for line in self.trace.read_text().splitlines()]
        return [
            line
            for line in lines
            if line["stage"] == stage and line["event"] == event and (ids is None or line["node"] in ids)
        ]


class variables_set:  # noqa: N801 - a context manager
    """Environment variables that hold during the block."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)

    def __enter__(self) -> None:
        self.before = dict(os.environ)
        os.environ.update(self.values)

    def __exit__(self, *error: object) -> None:
        os.environ.clear()
        os.environ.update(self.before)


class Output:
    """The output of a program, read while it runs.

    Args:
        process: started with pipes.
        write: receives each line.
    """

    def __init__(
        self, process: subprocess.Popen[str], write: Callable[[str], None] = lambda line: None
    ) -> None:
        self.process, self.write = process, write
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            self.write(line.rstrip())

    def count(self, text: str) -> int:
        """Number of lines that contain the text."""
        return sum(text in line for line in list(self.lines))

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 600) -> None:
        """Wait until something is true.

        Raises:
            AssertionError: the program has ended, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.text}"
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}: {self.text}"
            time.sleep(0.5)

    def wait_for_exit(self, seconds: float) -> int:
        """Wait until the program has ended; return its exit code."""
        code = self.process.wait(timeout=seconds)
        self._thread.join(10)
        return code

    @property
    def text(self) -> str:
        return "\n".join(self.lines)
