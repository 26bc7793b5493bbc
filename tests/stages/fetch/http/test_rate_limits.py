"""Rate limits, Crawl-delay, Retry-After, dead hosts, shared downloaders, and the memory limit."""

import asyncio
import gzip
import pickle
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from capfilt.stages.fetch.http.loop import BackgroundDownloader
from capfilt.stages.fetch.stage import Fetch
from tests.stages.fetch.hostile_server import (
    JPEG,
    HostileServer,
    endless,
    fetch_one,
    http_response,
    make_batch,
)
from tests.stages.fetch.http.sites import HOSTS, Site, site_config, statuses

pytestmark = pytest.mark.usefixtures("loopback_only", "site_names")


def test_crawl_delay_separates_requests_and_fails_urls_that_wait_too_long() -> None:
    rules = http_response(b"User-agent: *\nCrawl-delay: 0.3")
    with Site(a=rules, b=rules) as site:
        urls = [site.url(f"/{i}", "a.test") for i in range(4)]
        start = time.monotonic()
        assert set(statuses(Fetch(site_config()), *urls)) == {"success"}
        times = [at for at, path in site.hosts["a.test"] if path != "/robots.txt"]
        assert all(at - start >= number * 0.3 for number, at in enumerate(times))
        shared = Fetch(site_config(), BackgroundDownloader(site_config().host_settings(), workers=200))
        out = shared(make_batch(*(site.url(f"/{i}", "b.test") for i in range(4)))).to_pylist()
        assert sorted(row["status"] for row in out) == ["rate", "rate", "rate", "success"]
        assert "Crawl-delay of 0.3 s, shared by 200 workers" in next(
            row["error_message"] for row in out if row["status"] == "rate"
        )


def test_rate_is_divided_among_workers() -> None:
    """30 per second for two workers: this one sends at most 15, robots.txt included."""
    with Site() as site:
        settings = site_config(per_host_per_second=30.0)
        stage = Fetch(settings, BackgroundDownloader(settings.host_settings(), workers=2))
        start = time.monotonic()
        assert set(statuses(stage, *(site.url(f"/{i}", "a.test") for i in range(12)))) == {"success"}
        times = [at for at, _ in site.hosts["a.test"]]
        assert len(times) == 13
        assert all(at - start >= number / 15 for number, at in enumerate(times))


class Busy(HostileServer):
    """Responds 429 to the first requests to a host."""

    def __init__(self, refusals: int, retry_after: str) -> None:
        super().__init__()
        self.refusals, self.retry_after = refusals, retry_after

    def respond(self, path: str, count: int, host: str) -> bytes | AsyncIterator[bytes]:
        if len(self.hosts[host]) <= self.refusals:
            return http_response(status="429 Slow", Retry_After=self.retry_after)
        return http_response(JPEG)


def test_retry_after_holds_for_the_whole_host() -> None:
    with Busy(1, "1") as busy:
        stage = Fetch(site_config(robots=False, per_host=1))
        urls = [busy.url(f"/{i}", host) for i in range(4) for host in ("a.test", "b.test")]
        assert set(statuses(stage, *urls)) == {"success"}
        for host in ("a.test", "b.test"):
            times = [at for at, _ in busy.hosts[host]]
            assert len(times) == 5 and times[1] - times[0] >= 1


def test_long_retry_after_skips_the_host() -> None:
    with Busy(99, "3600") as busy:
        stage = Fetch(site_config(robots=False, per_host=1))
        for _ in range(2):
            out = stage(make_batch(*(busy.url(f"/{i}", "a.test") for i in range(9)))).to_pylist()
            assert {row["status"] for row in out} == {"http_429"}
        assert len(busy.hosts["a.test"]) == 1 and "skipped: host asked for a 3" in out[0]["error_message"]


def test_host_that_repeats_429_after_its_retry_after_is_skipped() -> None:
    with Busy(99, "0") as busy:
        stage = Fetch(site_config(robots=False, per_host=1, host_failures=4))
        assert set(statuses(stage, *(busy.url(f"/{i}", "a.test") for i in range(30)))) == {"http_429"}
        assert len(busy.hosts["a.test"]) == 4


def test_nonexistent_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups = []
    lookup = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: lookups.append(host) or lookup(host, *a, **k)
    )
    stage = Fetch(site_config(per_host=2))
    for _ in range(2):
        out = stage(make_batch(*(f"http://gone.test/{i}" for i in range(30)))).to_pylist()
        assert {row["status"] for row in out} == {"dns"}
    assert lookups == ["gone.test"] and "skipped" in out[0]["error_message"]


def test_host_that_refuses_connections_is_skipped_for_host_rest_s(monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []
    connect, clock = socket.socket.connect, time.monotonic

    def counted(self: socket.socket, address: Any) -> None:
        ports.append(address[1])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", counted)
    with Site() as site, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening
        port = closed.getsockname()[1]
        dead = [f"http://a.test:{port}/{i}" for i in range(30)]
        stage = Fetch(site_config(per_host=1, host_rest_s=3000.0))
        assert set(statuses(stage, *dead)) == {"connect"}
        assert ports.count(port) == 3
        assert statuses(stage, site.url("/a", "a.test")) == ["success"]  # another port is another server
        for seconds, attempts in ((2900.0, 3), (3100.0, 4)):
            monkeypatch.setattr(time, "monotonic", lambda seconds=seconds: clock() + seconds)
            assert set(statuses(stage, *dead)) == {"connect"}
            assert ports.count(port) == attempts


def test_stages_share_a_downloader_and_are_picklable() -> None:
    with Site() as site:
        downloader = BackgroundDownloader(site_config().host_settings())
        one, two = Fetch(site_config(), downloader), Fetch(site_config(), downloader)
        assert (
            statuses(one, site.url("/1", "a.test")) == statuses(two, site.url("/2", "a.test")) == ["success"]
        )
        assert site.requests["/robots.txt"] == 1
        copies = pickle.loads(pickle.dumps([one, two]))
        assert copies[0].downloader is copies[1].downloader
        assert statuses(copies[0], site.url("/3", "a.test")) == ["success"]
        assert site.requests["/robots.txt"] == 2  # a copy starts without a cached robots.txt


class Flood(HostileServer):
    """Endless bodies, and small ones that decompress to 9 MB."""

    bomb = http_response(gzip.compress(bytes(9_000_000)), Content_Encoding="gzip")

    def respond(self, path: str, count: int, host: str) -> bytes | AsyncIterator[bytes]:
        return self.bomb if "bomb" in path else endless()


@pytest.mark.parametrize("path", ["/endless", "/bomb"])
def test_memory_limit(path: str) -> None:
    """24 concurrent bodies, each cut at 4 MB, take 96 MB; 4 + 4 MB and 1 MB per connection are allowed."""
    settings = site_config(
        robots=False, per_host=24, concurrency=24, max_bytes=4_000_000, memory_bytes=4_000_000, deadline_s=60
    )
    with Flood() as flood, Site() as site:
        assert statuses(Fetch(settings), site.url("/warm", "a.test")) == ["success"]  # lazy imports
        tracemalloc.start()
        out = Fetch(settings)(make_batch(*(flood.url(f"{path}/{i}", "a.test") for i in range(24))))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert set(out["status"].to_pylist()) == {"too_big"}
    server_bytes = 24 * 250_000  # the server runs in this process
    assert peak < 4_000_000 + 4_000_000 + 24 * 1_000_000 + server_bytes


def test_request_headers() -> None:
    with Site() as site:
        fetch_one(site.url("/a", "a.test"), allow_private=HOSTS, contact="https://example.org/crawler")
        assert site.headers["user-agent"] == "capfilt/0.1 (+https://example.org/crawler)"
        assert "cookie" not in site.headers


class Trap(Site):
    """a.test redirects to b.test, at once or late; b.test answers slowly, with 429, or not at all."""

    def respond(self, path: str, count: int, host: str) -> bytes | AsyncIterator[bytes]:
        kind = path.strip("/").split("/")[0]
        if host == "a.test" and kind != "robots.txt":
            answer = http_response(status="302 Found", Location=self.url(path, "b.test"))
            return after(1.5, answer) if kind == "late" else answer
        if kind == "late":
            return after(1.0, http_response(JPEG))
        if kind == "busy":
            return http_response(status="429 Slow", Retry_After="3600")
        if kind == "closed":
            return b""
        return super().respond(path, count, host)


async def after(seconds: float, response: bytes) -> AsyncIterator[bytes]:
    await asyncio.sleep(seconds)
    yield response


@pytest.mark.parametrize(("kind", "status"), [("late", "timeout"), ("busy", "http_429")])
def test_redirects_to_a_host_do_not_silence_it(kind: str, status: str) -> None:
    with Trap() as trap:
        stage = Fetch(site_config(robots=False, deadline_s=2.0, retries=0, per_host=1, host_failures=1))
        for number in range(2):
            assert statuses(stage, trap.url(f"/{kind}/{number}", "a.test")) == [status]
        assert statuses(stage, trap.url("/ok.jpg", "b.test")) == ["success"]


def test_the_same_response_to_a_row_that_names_the_host_silences_it() -> None:
    with Trap() as trap:
        stage = Fetch(site_config(robots=False, retries=0, per_host=1))
        assert statuses(stage, trap.url("/busy", "b.test"), trap.url("/ok.jpg", "b.test")) == ["http_429"] * 2


def test_host_that_closes_connections_without_a_response_is_skipped() -> None:
    with Trap() as trap:
        stage = Fetch(site_config(robots=False, per_host=2))
        out = stage(make_batch(*(trap.url(f"/closed/{i}", "b.test") for i in range(100)))).to_pylist()
        assert {row["status"] for row in out} == {"connect"}
        assert "skipped: host is unavailable" in out[-1]["error_message"]
        assert len(trap.paths("b.test")) <= 3 * 2 * 2  # 3 failures, 2 urls at a time; aiohttp repeats each
