"""A Ray cluster of several nodes on one machine, whose worker processes carry a fault."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType

from ray._private.services import node_ip_address_from_perspective
from ray.cluster_utils import Cluster

from tests.faults.harness import Fault, fault_environment, inject_pythonpath

WORKERS = 2
CPUS = 4
"""Logical CPUs of each worker node: the minimum of an embedded Ray, so that a single node can run the
chain."""


class LocalCluster:
    """A head node without CPUs, which therefore runs nothing of the chain, and `WORKERS` worker nodes.

    `environment` is what a driver needs to connect. The fault may kill "node" (the raylet above the process
    that reaches the point) and "gcs" (the head's server); see `inject/sitecustomize.py`.
    """

    def __init__(self, folder: Path, fault: Fault | None, blind_to: str | None = None) -> None:
        self.folder, self.fault, self.blind_to = folder, fault, blind_to

    def __enter__(self) -> LocalCluster:
        before = dict(os.environ)
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        try:
            # An embedded Ray in this process would otherwise hand its loopback address to the nodes, which
            # drivers do not connect to.
            self.address = {"node_ip_address": node_ip_address_from_perspective()}
            self.cluster = Cluster(
                initialize_head=True,
                head_node_args={"num_cpus": 0, "include_dashboard": False, **self.address},
            )
            head = self.cluster.head_node.all_processes["gcs_server"][0].process.pid
            if self.fault is not None:
                os.environ |= fault_environment(self.fault, self.folder / "reached")
            os.environ["CAPFILT_GCS"] = json.dumps(head)
            for number in range(WORKERS):
                if number == WORKERS - 1 and self.blind_to is not None:
                    os.environ |= {"CAPFILT_BLIND": self.blind_to, "PYTHONPATH": inject_pythonpath()}
                self.cluster.add_node(num_cpus=CPUS, **self.address)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self.environment = {"RAY_ADDRESS": self.cluster.address, "RAY_AUTH_MODE": "disabled"}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cluster.shutdown()
