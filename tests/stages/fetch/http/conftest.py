"""Fixtures for the HTTP tests: host names on loopback, and an event loop with virtual time."""

import asyncio
import selectors
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from tests.stages.fetch.hostile_server import ADDRESSES
from tests.stages.fetch.http.sites import HOSTS

T = TypeVar("T")


@pytest.fixture
def site_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names `HOSTS` resolve to 127.0.0.1."""
    for name in HOSTS:
        monkeypatch.setitem(ADDRESSES, name, ["127.0.0.1"])


class VirtualTime:
    """A clock that jumps to the next timer when no coroutine can run; sleeps take no real time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in a loop with this clock."""
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Selector(self))) as runner:
            return runner.run(coroutine)


class _Selector(selectors.SelectSelector):
    """Advances the clock instead of waiting."""

    def __init__(self, clock: VirtualTime) -> None:
        super().__init__()
        self.clock, self.steps = clock, 0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "every coroutine waits, and none for a timer"
        self.steps = 0 if timeout > 0 else self.steps + 1
        assert self.steps < 10_000, "the clock stands still: a coroutine runs in a loop"
        self.clock.now += max(0.0, timeout)
        return super().select(0)


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualTime]:
    """`time.monotonic()`, and so asyncio's timers, follow this clock."""
    clock = VirtualTime()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    yield clock
