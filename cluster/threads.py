"""CPUs of a process with a model where there is no GPU: torch has as many threads."""

from __future__ import annotations

import os

from capfilt.cluster.machines import machine_cpus

CPU_SHARE = 0.75
"""Share of the CPUs that processes with models may request; the rest stays free for tasks that read and
write."""
MOST_CPUS = 8
"""CPUs that one process with a model may request where there is no GPU; more of them on one machine may be
long in coming where other programs share the cluster."""


def cpus_per_call(cpus: float, at_once: int = 1) -> float:
    """CPUs that each of several calls of a model requests on a machine with `cpus` and without a GPU."""
    return float(min(MOST_CPUS, max(1, int(CPU_SHARE * cpus / max(1, at_once)))))


def cpus_of_each(processes: int) -> float:
    """CPUs that each of several processes with a model may request that work side by side on the connected
    cluster: as many as the smallest machine has for its part of the processes."""
    machines = machine_cpus()
    cpus = cpus_per_call(min(machines), at_once=-(-processes // len(machines)))
    if len(machines) == 1:  # an embedded Ray has more CPUs than a small machine
        cpus = min(cpus, float(len(os.sched_getaffinity(0))))
    return cpus
