"""Retries, redirects, connections, and the cache of robots.txt rules."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from yarl import URL

from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.fetch.http.downloader import Downloader
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.fetch.urls.blocklist import BlockList
from capfilt.stages.status import Failure
from tests.stages.fetch.conftest import VirtualTime
from tests.stages.fetch.hostile_server import http_response
from tests.stages.fetch.http.sites import Site, site_config, statuses

pytestmark = pytest.mark.usefixtures("loopback_only", "site_names")

URL_A = "http://a.test/a.jpg"


class FailingDownloader(Downloader):
    """Fails every attempt without a request, and records when."""

    failure = Failure("connect", "refused")

    async def _follow_redirects(self, url: URL, transfer: object) -> bytes:
        self.attempts.append(asyncio.get_running_loop().time() - 1000.0)
        raise self.failure


def attempt(clock: VirtualTime, failure: Failure, url: str = URL_A, **settings: float) -> list[float]:
    """Times of the attempts, in seconds, of a url that always fails."""

    async def run() -> list[float]:
        downloader = FailingDownloader(DownloadConfig(**settings))  # type: ignore[arg-type]
        downloader.attempts, downloader.failure = [], failure
        with pytest.raises(Failure) as caught:
            await downloader.download(url, lambda body: asyncio.sleep(0))
        assert caught.value is failure and downloader.blocked == BlockList()
        await downloader.close()
        return downloader.attempts

    clock.now = 1000.0
    return clock.run(run())


def test_back_off_doubles_and_varies_by_half(virtual_time: VirtualTime) -> None:
    refused = Failure("connect", "refused")
    settings = {"retries": 3, "backoff_s": 4.0, "deadline_s": 1000.0}
    factors = []
    for number in range(60):
        times = attempt(virtual_time, refused, f"http://a.test/{number}", **settings)
        pauses = [after - before for before, after in pairwise(times)]
        assert len(pauses) == 3
        factors += [pause / step for pause, step in zip(pauses, (4.0, 8.0, 16.0), strict=True)]
    assert 0.5 <= min(factors) < 0.6 and 1.4 < max(factors) <= 1.5
    again = attempt(virtual_time, refused, "http://a.test/59", **settings)
    assert again == pytest.approx(times)  # the same url waits equally long in every run


def test_longer_retry_after_replaces_the_back_off(virtual_time: VirtualTime) -> None:
    settings = {"retries": 1, "backoff_s": 4.0, "deadline_s": 1000.0}
    busy = Failure("http_5xx", "busy", retry_after=50.0)
    assert attempt(virtual_time, busy, **settings) == pytest.approx([0.0, 50.0])
    plain = attempt(virtual_time, Failure("http_5xx", "busy"), **settings)
    assert attempt(virtual_time, Failure("http_5xx", "busy", retry_after=1.0), **settings) == plain


@pytest.mark.parametrize(("deadline_s", "attempts"), [(20.0, 1), (20.1, 2), (40.0, 2), (40.1, 3)])
def test_pauses_that_reach_the_deadline_end_the_retries(
    virtual_time: VirtualTime, deadline_s: float, attempts: int
) -> None:
    busy = Failure("http_5xx", "busy", retry_after=20.0)
    times = attempt(virtual_time, busy, retries=2, backoff_s=0.0, deadline_s=deadline_s)
    assert times == pytest.approx([0.0, 20.0, 40.0][:attempts])


@pytest.mark.parametrize("failure", [Failure("http_404", "gone"), Failure("dns", "no such host", final=True)])
def test_permanent_failures_are_not_retried(virtual_time: VirtualTime, failure: Failure) -> None:
    assert attempt(virtual_time, failure) == [0.0]


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_number_of_retries(virtual_time: VirtualTime, retries: int) -> None:
    refused = Failure("connect", "refused")
    assert len(attempt(virtual_time, refused, retries=retries, backoff_s=0.1)) == retries + 1


@pytest.mark.parametrize(
    ("hops", "limit", "status"), [(0, 0, "success"), (1, 0, "redirect"), (7, 7, "success")]
)
def test_number_of_redirects(hops: int, limit: int, status: str) -> None:
    with Site() as site:
        stage = Fetch(site_config(max_redirects=limit))
        assert statuses(stage, site.url(f"/chain/{hops}", "a.test")) == [status]
        assert (
            len(site.paths("a.test")) == 1 + min(hops, limit) + 1
        )  # robots.txt, the redirects, the last url


def test_rules_of_all_hosts_are_dropped_when_they_take_too_much_memory() -> None:
    """Three files of 330,000 characters fit in the cache, the fourth does not."""
    rule = b"Disallow: /" + b"x" * 1_988 + b"\n"
    rules = http_response(b"User-agent: *\n" + rule * 165)
    with Site(a=rules, b=rules, c=rules, www=rules) as site:
        stage = Fetch(site_config())
        hosts = ("a.test", "b.test", "c.test")
        for host in hosts * 2:
            assert statuses(stage, site.url("/a.jpg", host)) == ["success"]
        assert all(site.paths(host).count("/robots.txt") == 1 for host in hosts)
        for host in ("www.c.test", "a.test", "a.test"):
            assert statuses(stage, site.url("/a.jpg", host)) == ["success"]
        assert site.paths("a.test").count("/robots.txt") == 2


class PersistentSite(Site):
    """Keeps its connections open, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.connections = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                self.requests[request.split()[1].decode()] += 1
                writer.write(http_response(b"x").replace(b"Connection: close\r\n", b""))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.close()

    def respond(self, path: str, count: int, host: str) -> bytes | AsyncIterator[bytes]:
        raise NotImplementedError


def test_connections_are_reused() -> None:
    with PersistentSite() as site:
        stage = Fetch(site_config(robots=False, per_host=1))
        urls = [site.url(f"/{number}", "a.test") for number in range(10)]
        assert set(statuses(stage, *urls)) == {"not_image"}
        assert site.requests.total() == 10 and site.connections == 1
