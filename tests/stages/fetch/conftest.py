"""The fetch tests contact only 127.0.0.1, and names resolve from a table.

If the guard against private addresses fails, a test fails, and no packet leaves the machine. Tests of waiting
run in an event loop with virtual time.
"""

import asyncio
import selectors
import socket
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from tests.stages.fetch.hostile_server import ADDRESSES, HostileServer
from tests.stages.fetch.http.sites import HOSTS

T = TypeVar("T")


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as hostile:
        yield hostile


@pytest.fixture
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Connections to other addresses are refused, collected, and fail the test."""
    strays: list[Any] = []
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "127.0.0.1":
            strays.append(address)
            raise PermissionError(f"the test refuses {address}")
        connect(self, address)

    def lookup(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        name = host.encode("idna").decode().lower().rstrip(".")  # UnicodeError for "a..b", like the real one
        if name not in ADDRESSES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ADDRESSES[name]]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    yield strays
    assert strays == []


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
