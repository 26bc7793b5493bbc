"""The fetch tests contact only 127.0.0.1, and names resolve from a table.

If the guard against private addresses fails, a test fails, and no packet leaves the machine.
"""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stages.fetch.hostile_server import ADDRESSES, HostileServer


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
