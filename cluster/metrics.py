"""What is going on, told by workers to the driver: one small actor that keeps the latest numbers per node."""

from __future__ import annotations

import time
from typing import Any

import ray


@ray.remote(num_cpus=0, max_restarts=-1)
class _Board:
    def __init__(self) -> None:
        self.latest: dict[str, dict[str, Any]] = {}

    def post(self, node: str, values: dict[str, Any]) -> None:
        self.latest.setdefault(node, {}).update(values, at=time.time())

    def read(self) -> dict[str, dict[str, Any]]:
        return self.latest


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
