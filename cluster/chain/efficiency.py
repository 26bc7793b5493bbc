"""The processes of a chain, and its speed relative to that of its models alone."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StageProcesses:
    """The processes of one stage of a chain."""

    name: str
    processes: float
    """How many can work side by side."""
    long_lived: bool
    """They start once and may load a model, instead of being short tasks."""
    gpus: float = 0.0
    """GPUs that all of them hold, unless the stage before holds them."""
    fused: bool = False
    """They are the processes of the stage before."""


def group_processes(stages: Sequence[StageProcesses]) -> list[list[StageProcesses]]:
    """The stages of each kind of process, in their order."""
    groups: list[list[StageProcesses]] = []
    for stage in stages:
        if stage.fused:
            groups[-1].append(stage)
        else:
            groups.append([stage])
    return groups


@dataclass(frozen=True)
class StageEfficiency:
    """How close a stage comes to what its model would do alone."""

    processes: float
    """Processes of the stage at the end."""
    images_per_second: float
    """Of the model alone, in one process; in an ensemble of all models, one after another."""
    efficiency: float
    """Images per second of the chain, divided by those of all processes if they did nothing but run their
    models. Stages that share their processes have one value. If each stage has processes of its own, only
    that of the slowest can come near 1."""


class EfficiencyMeter:
    """Measures the efficiency of the chain of a node.

    In each pass the clock starts once as many shards are finished as the stages have processes. So the start
    of the processes does not count, the first shards count neither as work nor as time, and the processes
    that idle at the end do count.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._stages: Sequence[StageProcesses] = ()
        self._first_shards = 0
        """Shards of the pass before the clock starts."""
        self._shards = 0
        """Shards of the pass."""
        self._last = 0.0
        """When the last shard was finished."""
        self._images = 0
        self._process_seconds: defaultdict[str, float] = defaultdict(float)
        """stage -> seconds that its processes have had, together."""

    def begin_pass(self, stages: Sequence[StageProcesses]) -> None:
        """A pass starts, with these stages."""
        self._stages, self._shards = stages, 0
        self._first_shards = math.ceil(max((each.processes for each in stages if each.long_lived), default=1))

    def add(self, images: int) -> None:
        """A shard with so many stored images is finished."""
        now = self.clock()
        self._shards += 1
        if self._shards > self._first_shards:
            self._images += images
            for stage in self._stages:
                self._process_seconds[stage.name] += stage.processes * (now - self._last)
        self._last = now

    def measure(self, rates: Mapping[str, float]) -> dict[str, StageEfficiency]:
        """The efficiency of each stage with a model; {} before enough shards are finished.

        Args:
            rates: stage → images per second of its model alone, in one process.
        """
        found = {}
        for group in group_processes(self._stages):
            known = [stage for stage in group if stage.name in rates]
            available = self._process_seconds[group[0].name]
            if not known or not available:
                continue
            seconds = self._images * sum(1 / rates[stage.name] for stage in known)
            for stage in known:
                found[stage.name] = StageEfficiency(
                    processes=stage.processes,
                    images_per_second=round(rates[stage.name], 3),
                    efficiency=round(seconds / available, 4),
                )
        return found
