"""What is going on, told by workers to the driver: one small actor that keeps the latest numbers per node."""

from __future__ import annotations

import time
from typing import Any

import ray

CAUSES_KEPT = 20


@ray.remote(num_cpus=0, max_restarts=-1)
class _Board:
    def __init__(self) -> None:
        self.latest: dict[str, dict[str, Any]] = {}
        self.causes: dict[str, dict[str, int]] = {}

    def post(self, node: str, values: dict[str, Any]) -> None:
        self.latest.setdefault(node, {}).update(values, at=time.time())

    def read(self) -> dict[str, dict[str, Any]]:
        return self.latest

    def fail(self, node: str, cause: str) -> None:
        causes = self.causes.setdefault(node, {})
        if cause in causes or len(causes) < CAUSES_KEPT:
            causes[cause] = causes.get(cause, 0) + 1

    def failures(self, node: str) -> dict[str, int]:
        return self.causes.get(node, {})


class Board:
    """Handle to the board; picklable, so that it travels to training workers. Numbers here are for the eye: the
    durable counts stand in the commit records."""

    def __init__(self) -> None:
        self._actor = _Board.remote()  # type: ignore[attr-defined]

    def post(self, node: str, **values: Any) -> None:
        """Tell the latest values of a node; does not wait."""
        self._actor.post.remote(node, values)

    def read(self) -> dict[str, dict[str, Any]]:
        """Latest values by node."""
        latest: dict[str, dict[str, Any]] = ray.get(self._actor.read.remote(), timeout=10)
        return latest

    def fail(self, node: str, cause: str) -> None:
        """Tell why a shard's task failed; does not wait, so that no trouble of the board hides the cause itself."""
        self._actor.fail.remote(node, cause)

    def failures(self, node: str) -> dict[str, int]:
        """Causes of failed attempts of a node, and how often each was told."""
        causes: dict[str, int] = ray.get(self._actor.failures.remote(node), timeout=10)
        return causes
