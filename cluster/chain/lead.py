"""How far the first stage of a chain may be ahead of the slower ones behind it.

Ray Data lets a stage run ahead until the object store is half full: thousands of downloaded shards that wait
for the captioners. They would all have to be finished before a chain is resized or stopped, and be downloaded
again when the run is killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAD_S = 60.0
"""Seconds of work that may wait before a stage."""
MIN_SHARDS, UNTRIED_SHARDS = 2, 4
"""Shards for each process of a stage that may wait, however long they take; and as long as nobody knows how
long they take. Ray hands two more to each process."""


@dataclass(frozen=True)
class Queue:
    """The shards that wait before a stage."""

    waiting: int
    processes: float
    """That work on them side by side."""
    seconds: float | None
    """That one of them works on a shard; None before the first one."""

    @property
    def is_long(self) -> bool:
        """Whether more waits than the stage needs to be busy all the time."""
        if self.seconds is None:
            return self.waiting > UNTRIED_SHARDS * self.processes
        is_much_work = self.waiting * self.seconds > LEAD_S * self.processes
        return is_much_work and self.waiting > MIN_SHARDS * self.processes


def is_too_far_ahead(queues: Sequence[Queue]) -> bool:
    """Whether the first stage is to wait.

    Args:
        queues: of the stages behind it.
    """
    return any(queue.is_long for queue in queues)
