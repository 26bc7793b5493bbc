"""The processes of the stages of a chain."""

from __future__ import annotations

from collections.abc import Sequence
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
