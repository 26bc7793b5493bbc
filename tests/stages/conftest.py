"""The fetch stage's tests talk to 127.0.0.1 and nothing else, and names resolve from a table: a guard that fails shows
as a failed test, never as a packet that leaves the machine."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.s3_server import ENVIRONMENT, S3
from tests.stages.fetch.hostile import NAMES, Hostile


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with Hostile() as hostile:
        yield hostile


@pytest.fixture
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Connections to other addresses fail, are listed, and fail the test."""
    strays: list[Any] = []
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "127.0.0.1":
            strays.append(address)
            raise PermissionError(f"the test refuses {address}")
        connect(self, address)

    def lookup(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        name = host.encode("idna").decode().lower().rstrip(".")  # as the real one: UnicodeError for "a..b"
        if name not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in NAMES[name]]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    yield strays
    assert strays == []


@pytest.fixture
def calm_s3(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server without troubles, of this test or of the one before; the environment has its credentials and no
    endpoint."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3.calm()
    yield s3
    s3.calm()
