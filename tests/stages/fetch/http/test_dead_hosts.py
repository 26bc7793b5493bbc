"""A shard with mostly dead hosts and some tar pits: live hosts are fetched completely, and each dead host is
asked a few times, however many rows and attempts there are."""

import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from capfilt.stages.fetch.stage import Fetch
from tests.stages.fetch.hostile_server import (
    ADDRESSES,
    HostileServer,
    fetch_config,
    http_response,
    late_header,
    make_batch,
    trickle,
)

pytestmark = pytest.mark.usefixtures("loopback_only")

LIVE_HOSTS, LIVE_ROWS = 5, 14
DEADLINE, CONNECT = 4.0, 1.0
RATE, PER_HOST, RETRIES = 20.0, 2, 2


class Web(HostileServer):
    """Live hosts, hosts that accept but never respond (`mute`), and hosts whose images trickle (`slow`)."""

    def respond(self, path: str, count: int, host: str) -> bytes | AsyncIterator[bytes]:
        if host.startswith("mute"):
            return late_header()
        if path == "/robots.txt":
            return http_response(status="404 None")
        return trickle() if host.startswith("slow") else self.delayed_image(host, 0.02)


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that neither accepts nor refuses connections: its backlog is full."""
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
def lookups(monkeypatch: pytest.MonkeyPatch, loopback_only: list[Any]) -> Counter[str]:
    """Number of lookups by name. Those of `lost` names time out, `gone` names do not exist, all others are
    127.0.0.1."""
    known, counts = socket.getaddrinfo, Counter[str]()

    def lookup(host: str, *args: Any, **kinds: Any) -> list[Any]:
        counts[host] += 1
        if host.startswith("lost"):
            time.sleep(1.5 * CONNECT)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if not host.startswith("gone"):
            ADDRESSES[host] = ["127.0.0.1"]
        return known(host, *args, **kinds)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    for name in list(ADDRESSES):
        monkeypatch.setitem(ADDRESSES, name, ADDRESSES[name])
    return counts


def test_dead_hosts_and_tar_pits_do_not_affect_live_hosts(lookups: Counter[str]) -> None:
    """200 rows on 135 hosts, 32 at a time: 120 dead hosts of four kinds and 10 tar pits."""
    with Web() as web, black_hole() as hole, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening
        ports = {"refused": closed.getsockname()[1], "hole": hole}
        dead = {"gone": 40, "lost": 20, "refused": 30, "hole": 30}
        expected = {"gone": "dns", "lost": "dns", "refused": "connect", "hole": "timeout"}
        hosts = [(kind, f"{kind}{i}.test") for kind, count in dead.items() for i in range(count)]
        hosts += [(kind, f"{kind}{i}.test") for kind in ("mute", "slow") for i in range(5)]
        hosts += [("live", f"live{i}.test") for _ in range(LIVE_ROWS) for i in range(LIVE_HOSTS)]
        urls = [f"http://{host}:{ports.get(kind, web.port)}/{n}.jpg" for n, (kind, host) in enumerate(hosts)]
        stage = Fetch(
            fetch_config(
                allow_private=tuple({host for _, host in hosts}),
                deadline_s=DEADLINE,
                connect_timeout_s=CONNECT,
                concurrency=32,
                per_host=PER_HOST,
                retries=RETRIES,
                per_host_per_second=RATE,
            )
        )
        start = time.monotonic()
        found = stage(make_batch(*urls))["status"].to_pylist()
        for (kind, host), status in zip(hosts, found, strict=True):
            status_expected = "success" if kind == "live" else expected.get(kind, "timeout")
            assert status == status_expected, (host, status)
        for kind, host in hosts:  # a robots.txt and an image, each with its retries, and no more
            assert lookups[host] <= 2 * (RETRIES + 1) or kind == "live", (host, lookups[host])
            if kind in ("mute", "slow"):
                assert len(web.paths(host)) <= 2, web.paths(host)
        for i in range(LIVE_HOSTS):
            host = f"live{i}.test"
            times = [at for at, _ in web.hosts[host]]
            assert len(times) == LIVE_ROWS + 1 and web.max_concurrent[host] <= PER_HOST
            assert all(at - start >= number / RATE for number, at in enumerate(times))
        # The next shard uses what is known about the hosts.
        dead_urls = [
            url for (kind, _), url in zip(hosts, urls, strict=True) if kind in dead or kind == "mute"
        ]
        requests = web.requests.total()
        out = stage(make_batch(*dead_urls)).to_pylist()
        assert all(row["status"] != "success" and "skipped" in row["error_message"] for row in out[:40])
        assert web.requests.total() == requests
