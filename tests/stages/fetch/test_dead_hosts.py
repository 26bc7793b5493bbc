"""A shard of which most hosts are dead and some are tar-pits: the living get what they are due, and it ends in time."""

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from capfilt.stages.fetch.stage import Fetch
from tests.stages.fetch.hostile import NAMES, Hostile, answer, config, rows, slow_header, trickle

pytestmark = pytest.mark.usefixtures("loopback_only")

LIVE_HOSTS, LIVE_ROWS = 5, 14
DEADLINE, CONNECT = 4.0, 1.0
RATE, PER_HOST = 20.0, 2


class Web(Hostile):
    """Living hosts, hosts that accept and never answer (`mute`), and hosts whose pictures trickle (`slow`)."""

    def reply(self, path: str, times: int, host: str) -> bytes | AsyncIterator[bytes]:
        if host.startswith("mute"):
            return slow_header()
        if path == "/robots.txt":
            return answer(status="404 None")
        return trickle() if host.startswith("slow") else self.leisurely(host, 0.02)


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that neither accepts nor refuses: its queue of connections is full."""
    with ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(hole.getsockname())
        yield hole.getsockname()[1]


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch, loopback_only: list[Any]) -> None:
    """`lost` names never get an answer from their name server; `gone` ones do not exist; the rest are here."""
    known = socket.getaddrinfo

    def lookup(host: str, *args: Any, **kinds: Any) -> list[Any]:
        if host.startswith("lost"):
            time.sleep(1.5 * CONNECT)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if not host.startswith("gone"):
            NAMES[host] = ["127.0.0.1"]
        return known(host, *args, **kinds)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    for name in list(NAMES):
        monkeypatch.setitem(NAMES, name, NAMES[name])


class Stalls(threading.Thread):
    """Seconds for which the machine did not let this process run: a nap of 20 ms that takes longer."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds, self.over = 0.0, False

    def run(self) -> None:
        while not self.over:
            start = time.monotonic()
            time.sleep(0.02)
            late = time.monotonic() - start - 0.02
            self.seconds += late if late > 0.1 else 0.0


@pytest.mark.usefixtures("lookups")
def test_dead_hosts_and_tar_pits_take_nothing_from_the_living() -> None:
    """200 rows of 135 hosts, 60 % of them dead in four ways and 5 % tar-pits, 32 at once."""
    with Web() as web, black_hole() as hole, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listening
        ports = {"refused": closed.getsockname()[1], "hole": hole}
        dead = {"gone": 40, "lost": 20, "refused": 30, "hole": 30}
        expected = {"gone": "dns", "lost": "dns", "refused": "connect", "hole": "timeout"}
        hosts = [(kind, f"{kind}{i}.test") for kind, count in dead.items() for i in range(count)]
        hosts += [(kind, f"{kind}{i}.test") for kind in ("mute", "slow") for i in range(5)]
        hosts += [("live", f"live{i}.test") for _ in range(LIVE_ROWS) for i in range(LIVE_HOSTS)]
        urls = [f"http://{host}:{ports.get(kind, web.port)}/{n}.jpg" for n, (kind, host) in enumerate(hosts)]
        stage = Fetch(
            config(
                allow_private=tuple({host for _, host in hosts}),
                deadline_s=DEADLINE,
                connect_timeout_s=CONNECT,
                concurrency=32,
                per_host=PER_HOST,
                per_host_per_second=RATE,
            )
        )
        stalls = Stalls()
        stalls.start()
        start = time.monotonic()
        found = stage(rows(*urls))["status"].to_pylist()
        seconds = time.monotonic() - start - stalls.seconds
        stalls.over = True
        for (kind, host), status in zip(hosts, found, strict=True):
            wanted = "success" if kind == "live" else expected.get(kind, "timeout")
            assert status == wanted, (host, status)
        # The longest chain that is allowed: a robots.txt and a picture, each as long as its deadline.
        assert seconds < 1.5 * 2 * DEADLINE
        for i in range(LIVE_HOSTS):
            host = f"live{i}.test"
            times = [at for at, _ in web.hosts[host]]
            assert len(times) == LIVE_ROWS + 1 and web.most_at_once[host] <= PER_HOST
            assert all(at - start >= number / RATE for number, at in enumerate(times))
        # What was learnt holds for the next shard.
        again = [url for (kind, _), url in zip(hosts, urls, strict=True) if kind in dead or kind == "mute"]
        asked = web.asked.total()
        out = stage(rows(*again)).to_pylist()
        assert all(row["status"] != "success" and "not asked" in row["error_message"] for row in out[:40])
        assert web.asked.total() == asked
