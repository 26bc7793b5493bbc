"""Speed and yield of a node that works shard by shard, in the words of its live line."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capfilt.cluster.chain.efficiency import EfficiencyMeter, StageProcesses, group_processes
from capfilt.cluster.chain.lead import Queue

WINDOW_SECONDS = 120.0
"""Finished shards of this long ago and less make up the present speed, …"""
MIN_SHARDS = 8
"""… and at least this many, because large shards may take longer."""
FINAL_VERDICTS = ("kept", "dropped")


@dataclass(frozen=True, kw_only=True)
class FinishedShard:
    """What the chain has made of one shard."""

    units: int
    """What the progress of the node counts: rows, or shards."""
    rows: int
    images: int
    """Rows that succeeded."""
    verdicts: Mapping[str, Mapping[str, int]]
    """{origin: {"kept" | "dropped" | "unjudged": texts}}; empty where nothing is judged."""
    seconds: Mapping[str, float]
    """{stage: seconds that a process of the stage worked on the shard}."""


class Throughput:
    """Numbers of a chain of stages since the command began.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.stages: Sequence[StageProcesses] = ()
        """The stages of the chain in their order."""
        self.efficiency = EfficiencyMeter(clock)
        self._lock = threading.Lock()
        """The thread of the node adds while the main thread describes."""
        self.shards = self.rows = self.images = 0
        self.slowest = 0.0
        """Seconds of all stages together of the slowest shard."""
        self.verdicts: dict[str, Counter[str]] = {}
        self.seconds: Counter[str] = Counter()
        self._window_start = clock()
        self._recent: deque[tuple[float, FinishedShard]] = deque()
        """The last shards, with the time at which they were finished."""

    def begin_pass(self, stages: Sequence[StageProcesses]) -> None:
        """A pass over shards starts, with these stages."""
        with self._lock:
            self.stages = stages
            self.efficiency.begin_pass(stages)

    def add(self, shard: FinishedShard) -> None:
        """Count a finished shard."""
        with self._lock:
            self.efficiency.add(shard.images)
            now = self.clock()
            self.shards += 1
            self.rows += shard.rows
            self.images += shard.images
            self.slowest = max(self.slowest, sum(shard.seconds.values()))
            self.seconds.update(shard.seconds)
            for origin, verdicts in shard.verdicts.items():
                self.verdicts.setdefault(origin, Counter()).update(verdicts)
            self._recent.append((now, shard))
            while len(self._recent) > MIN_SHARDS and now - self._recent[0][0] > WINDOW_SECONDS:
                # The window begins when the shard before its first one was finished.
                self._window_start, _ = self._recent.popleft()

    def describe(self, left: int, board: Mapping[str, Any]) -> str:
        """One line: speed of the whole cluster, shares, time left and bottleneck; before the first shard is
        finished, what the stages are doing.

        Args:
            left: units that are not done.
            board: what the stages have posted (`cluster.board.StatusBoard.read`).
        """
        with self._lock:
            return self._describe_speed(left) if self._recent else self._describe_start(board)

    def _describe_speed(self, left: int) -> str:
        seconds = max(self.clock() - self._window_start, 1e-9)
        images = sum(shard.images for _, shard in self._recent) / seconds
        units = sum(shard.units for _, shard in self._recent) / seconds
        parts = [f"{images:,.{0 if images >= 10 else 1}f} images/s"]
        if self.rows:
            parts.append(f"success {self.images / self.rows:.1%}")
        parts += self._kept_shares()
        if units:
            parts.append(f"{format_duration(left / units)} left")
        if (bottleneck := self.bottleneck()) is not None:
            parts.append(f"bottleneck {bottleneck}")
        return "  ".join(parts)

    def bottleneck(self) -> str | None:
        """The stage whose processes were busy for the largest share of the time; of stages that share their
        processes the slowest. None if nothing is known."""

        def busy(stage: StageProcesses) -> float:
            return self.seconds[stage.name] / stage.processes

        slowest = max(group_processes(self.stages), key=lambda group: sum(map(busy, group)), default=[])
        stage = max(slowest, key=busy, default=None)
        return stage.name if stage is not None and busy(stage) else None

    def _kept_shares(self) -> list[str]:
        """Share of the judged texts that were kept, by origin; web before synthetic."""
        shares = []
        for origin in sorted(self.verdicts, reverse=True):
            judged = sum(self.verdicts[origin][verdict] for verdict in FINAL_VERDICTS)
            if judged:
                shares.append(f"{origin} {self.verdicts[origin]['kept'] / judged:.1%}")
        return [f"kept {', '.join(shares)}"] if shares else []

    def queues(self, waiting: Sequence[int]) -> list[Queue]:
        """The queues of the stages with long-lived processes behind the first of these.

        Args:
            waiting: shards that wait before each stage with processes of its own.
        """
        groups = group_processes(self.stages)
        if len(waiting) != len(groups):
            return []
        with self._lock:
            found = [
                Queue(number, group[0].processes, self._mean_seconds(group))
                for group, number in zip(groups, waiting, strict=True)
                if group[0].long_lived
            ]
        return found[1:]

    def _mean_seconds(self, stages: Sequence[StageProcesses]) -> float | None:
        return sum(self.seconds[stage.name] for stage in stages) / self.shards if self.shards else None

    def is_busy(self, board: Mapping[str, Any]) -> bool:
        """Whether a stage works on a shard, or some of its processes have yet to start.

        Args:
            board: as for `describe`.
        """
        return bool(self._starting(board)) or any(board.get("at_work", {}).values())

    def _starting(self, board: Mapping[str, Any]) -> list[str]:
        """Stages whose processes have not all started, and how many have."""
        started = board.get("started", {})
        return [
            f"{stage.name} ({started.get(stage.name, 0)} of {stage.processes:g})"
            for stage in self.stages
            if stage.long_lived and started.get(stage.name, 0) < stage.processes
        ]

    def _describe_start(self, board: Mapping[str, Any]) -> str:
        at_work = board.get("at_work", {})
        if waiting := self._starting(board):
            self._window_start = self.clock()  # the speed is that of processes that have started
            return f"starting the processes of {', '.join(waiting)}"
        works = [f"{stage.name} {n}" for stage in self.stages if (n := at_work.get(stage.name))]
        return f"no shard finished yet; shards at work: {', '.join(works) or 'none'}"


def format_duration(seconds: float) -> str:
    """A duration in one or two units: `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
