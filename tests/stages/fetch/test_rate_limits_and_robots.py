"""What is not asked, and how often the rest: robots.txt, block lists, rates, pauses, dead hosts; and the bounds."""

import gzip
import hashlib
import pickle
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from capfilt.stages.fetch.http.blocklist import block_list_digest, read_block_list
from capfilt.stages.fetch.http.loop import BackgroundDownloader
from capfilt.stages.fetch.http.robots import SIZE_LIMIT, rules_of
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.status import Failure
from capfilt.stages.storage.artifacts import ArtifactError
from tests.stages.fetch.hostile import JPEG, NAMES, Hostile, answer, config, endless, fetch_one, rows

pytestmark = pytest.mark.usefixtures("loopback_only")

HOSTS = ("a.test", "b.test", "c.test", "www.c.test")


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HOSTS:
        monkeypatch.setitem(NAMES, name, ["127.0.0.1"])


def manners(**changes: Any) -> Any:
    return config(**({"allow_private": HOSTS, "deadline_s": 5.0} | changes))


def statuses(stage: Fetch, *urls: str) -> list[str]:
    return stage(rows(*urls))["status"].to_pylist()


class Site(Hostile):
    """Answers robots.txt of each host as it is told, and everything else with a picture."""

    def __init__(self, **robots: bytes) -> None:
        super().__init__()
        self.robots = robots

    def reply(self, path: str, times: int, host: str) -> bytes | AsyncIterator[bytes]:
        if path == "/robots.txt":
            return self.robots.get(host.partition(".")[0], answer(status="404 None"))
        return super().reply(path, times, host)

    def paths(self, host: str) -> list[str]:
        return [path for _, path in self.hosts[host]]


RULES = [  # robots.txt, path, whether it may be asked for (RFC 9309; the last but one as its 2.2.2 has them)
    ("", "/a.jpg", True),
    ("User-agent: *\nDisallow: /", "/a.jpg", False),
    ("User-agent: *\nDisallow:", "/a.jpg", True),
    ("User-agent: *\nDisallow: /\n\nUser-agent: capfilt\nDisallow: /b", "/a.jpg", True),
    ("User-agent: *\nAllow: /\n\nUser-agent: CapFilt\nDisallow: /a", "/a.jpg", False),
    ("User-agent: capfilt/2.0\nUser-agent: x\nDisallow: /a", "/a.jpg", False),
    ("User-agent: cap\nDisallow: /", "/a.jpg", True),
    ("User-agent: otherbot\nDisallow: /\nUser-agent: *\nDisallow: /b", "/a.jpg", True),
    ("user-agent: *\nuser-agent: otherbot\ndisallow: /a", "/a.jpg", False),
    (
        "User-agent: otherbot\n# so it is\nSitemap: http://a.test/s\nUser-agent: *\nDisallow: /a",
        "/a.jpg",
        False,
    ),
    ("User-agent: *\nDisallow: /images/\nAllow: /images/free/", "/images/free/a.jpg", True),
    ("User-agent: *\nDisallow: /images/\nAllow: /images/free/", "/images/a.jpg", False),
    ("User-agent: *\nDisallow: /*.jpg$", "/a.jpg", False),
    ("User-agent: *\nDisallow: /*.jpg$", "/a.jpg?size=2", True),
    ("User-agent: *\nDisallow: /*/raw/", "/x/raw/a.jpg", False),
    ("User-agent: *\nDisallow: /a%3cd.jpg", "/a%3Cd.jpg", False),
    ("User-agent: *\nDisallow: /foo/bar/ツ", "/foo/bar/%E3%83%84", False),
    ("\ufeffUser-agent: *\r\nDisallow: /a\r\n", "/a.jpg", False),
    ("<!DOCTYPE html><p>Disallow: / it says", "/a.jpg", True),
]


@pytest.mark.parametrize(("text", "path", "allowed"), RULES)
def test_rules(text: str, path: str, allowed: bool) -> None:
    rules = rules_of(text.encode())
    if allowed:
        rules.check(f"http://a.test{path}")
    else:
        with pytest.raises(Failure) as caught:
            rules.check(f"http://a.test{path}")
        assert caught.value.status == "robots"


def test_robots_txt_that_is_a_bomb() -> None:
    """Every agent of a group times every rule of it, and a rule beyond the 500 KiB that are read."""
    agents = "".join(f"User-agent: x{i}\n" for i in range(8_000))
    rules = "".join(f"Disallow: /{i}\n" for i in range(8_000))
    for group, allowed in (("", True), ("User-agent: *\n", False)):
        parsed = rules_of((agents + group + rules).encode()[:SIZE_LIMIT])
        assert parsed.size < len(rules) + 100
        try:
            parsed.check("http://a.test/777")
        except Failure:
            assert not allowed
        else:
            assert allowed
    late = b"User-agent: *\n" + b"#" * SIZE_LIMIT + b"\nDisallow: /"
    rules_of(late).check("http://a.test/a.jpg")
    cut = b"User-agent: *\n" + b"#" * (SIZE_LIMIT - 26) + b"\nDisallow: /images"
    assert cut[:SIZE_LIMIT].endswith(b"Disallow: /")
    rules_of(cut).check("http://a.test/a.jpg")


def test_robots_txt_is_asked_for_once() -> None:
    rules = answer(b"User-agent: *\nDisallow: /private/")
    with Site(a=rules, b=rules) as site:
        stage = Fetch(manners())
        urls = [site.url(f"/{i}.jpg", host) for i in range(20) for host in ("a.test", "b.test")]
        assert set(statuses(stage, *urls, site.url("/private/x", "a.test"))) == {"success", "robots"}
        assert statuses(stage, site.url("/private/y", "b.test"), site.url("/z", "a.test")) == [
            "robots",
            "success",
        ]
        for host in ("a.test", "b.test"):
            assert site.paths(host)[0] == "/robots.txt"
            assert site.paths(host).count("/robots.txt") == 1
            assert not any(path.startswith("/private") for path in site.paths(host))
        off = Fetch(manners(robots=False))
        assert statuses(off, site.url("/private/x", "a.test")) == ["success"]
        assert site.asked["/robots.txt"] == 2


@pytest.mark.parametrize(
    ("reply", "status", "requests"),
    [
        (answer(status="404 None"), "success", 1),
        (answer(status="403 No"), "success", 1),
        (answer(status="500 Oh"), "http_5xx", 3),
        (answer(status="429 Slow", Retry_After="60"), "http_429", 1),
        (answer(b""), "success", 1),
        (b"SSH-2.0-x\r\n", "success", 1),
        (answer(status="301 To", Location="http://b.test:{port}/robots.txt"), "robots", 1),
        (answer(status="301 To", Location="/robots.txt"), "success", 1),
        (answer(status="301 To", Location="http://169.254.169.254/robots.txt"), "success", 1),
        (answer(b"User-agent: *\nDisallow: /\n" + b"#" * 2_000_000), "robots", 1),
    ],
)
def test_robots_txt_that_cannot_be_had(reply: bytes, status: str, requests: int) -> None:
    with Site(b=answer(b"User-agent: *\nDisallow: /")) as site:
        site.robots["a"] = reply.replace(b"{port}", str(site.port).encode())
        stage = Fetch(manners())
        for _ in range(2):
            assert statuses(stage, site.url("/a.jpg", "a.test")) == [status]
        assert site.paths("a.test").count("/robots.txt") == requests
        assert ("/a.jpg" in site.paths("a.test")) == (status == "success")


def test_crawl_delay() -> None:
    rules = answer(b"User-agent: *\nCrawl-delay: 0.3")
    with Site(a=rules, b=rules) as site:
        urls = [site.url(f"/{i}", "a.test") for i in range(4)]
        start = time.monotonic()
        assert set(statuses(Fetch(manners()), *urls)) == {"success"}
        times = [at for at, path in site.hosts["a.test"] if path != "/robots.txt"]
        assert all(at - start >= number * 0.3 for number, at in enumerate(times))
        shared = Fetch(manners(), BackgroundDownloader(manners().manners(), workers=200))
        out = shared(rows(*(site.url(f"/{i}", "b.test") for i in range(4)))).to_pylist()
        assert sorted(row["status"] for row in out) == ["rate", "rate", "rate", "success"]
        assert "asks for 0.3 s" in next(row["error_message"] for row in out if row["status"] == "rate")


def test_rate_is_shared_among_workers() -> None:
    """30 a second for two workers: this one asks at most 15 times, its host's robots.txt among them."""
    with Site() as site:
        sets = manners(per_host_per_second=30.0)
        stage = Fetch(sets, BackgroundDownloader(sets.manners(), workers=2))
        start = time.monotonic()
        assert set(statuses(stage, *(site.url(f"/{i}", "a.test") for i in range(12)))) == {"success"}
        times = [at for at, _ in site.hosts["a.test"]]
        assert len(times) == 13
        assert all(at - start >= number / 15 for number, at in enumerate(times))


class Busy(Hostile):
    """Says 429 to the first requests of a host."""

    def __init__(self, refusals: int, wait: str) -> None:
        super().__init__()
        self.refusals, self.wait = refusals, wait

    def reply(self, path: str, times: int, host: str) -> bytes | AsyncIterator[bytes]:
        if len(self.hosts[host]) <= self.refusals:
            return answer(status="429 Slow", Retry_After=self.wait)
        return answer(JPEG)


def test_retry_after_holds_for_the_whole_host() -> None:
    with Busy(1, "1") as busy:
        stage = Fetch(manners(robots=False, per_host=1))
        urls = [busy.url(f"/{i}", host) for i in range(4) for host in ("a.test", "b.test")]
        assert set(statuses(stage, *urls)) == {"success"}
        for host in ("a.test", "b.test"):
            times = [at for at, _ in busy.hosts[host]]
            assert len(times) == 5 and times[1] - times[0] >= 1


def test_host_that_wants_long_peace_is_left_alone() -> None:
    with Busy(99, "3600") as busy:
        stage = Fetch(manners(robots=False, per_host=1))
        for _ in range(2):
            out = stage(rows(*(busy.url(f"/{i}", "a.test") for i in range(9)))).to_pylist()
            assert {row["status"] for row in out} == {"http_429"}
        assert len(busy.hosts["a.test"]) == 1 and "wants 3" in out[0]["error_message"]


def test_host_that_refuses_again_after_its_pause_is_given_up() -> None:
    with Busy(99, "0") as busy:
        stage = Fetch(manners(robots=False, per_host=1, host_failures=4))
        assert set(statuses(stage, *(busy.url(f"/{i}", "a.test") for i in range(30)))) == {"http_429"}
        assert len(busy.hosts["a.test"]) == 4


def test_name_that_does_not_exist_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    lookup = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: asked.append(host) or lookup(host, *a, **k)
    )
    stage = Fetch(manners(per_host=2))
    for _ in range(2):
        out = stage(rows(*(f"http://gone.test/{i}" for i in range(30)))).to_pylist()
        assert {row["status"] for row in out} == {"dns"}
    assert asked == ["gone.test"] and "not asked" in out[0]["error_message"]


def test_host_that_refuses_connections_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    connect = socket.socket.connect

    def counted(self: socket.socket, address: Any) -> None:
        asked.append(address[1])
        connect(self, address)

    with Site() as site, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        port = taken.getsockname()[1]
        monkeypatch.setattr(socket.socket, "connect", counted)
        stage = Fetch(manners(per_host=1, host_rest_s=0.5))
        dead = [f"http://a.test:{port}/{i}" for i in range(30)]
        start = time.monotonic()
        assert set(statuses(stage, *dead)) == {"connect"}
        assert asked.count(port) == 3
        assert statuses(stage, site.url("/a", "a.test")) == ["success"]  # another port is another server
        taken.listen()
        monkeypatch.undo()
        time.sleep(max(0.0, start + 1 - time.monotonic()))
    NAMES["a.test"] = ["127.0.0.1"]
    with Site() as site:
        assert statuses(stage, site.url("/a", "a.test")) == ["success"]


def test_block_lists(tmp_path: Path) -> None:
    with Site() as site:
        lists = [tmp_path / "urls.txt", tmp_path / "more.txt.gz"]
        lists[0].write_text(f"# harmful\n\n{site.url('/bad.jpg', 'a.test')}\nC.test\n")
        lists[1].write_bytes(gzip.compress(hashlib.sha256(JPEG).hexdigest().upper().encode()))
        target = site.url("/bad.jpg", "a.test").encode().hex()
        urls = {
            site.url("/bad.jpg", "a.test"): "blocked",
            site.url("/bad.jpg#part", "A.test"): "blocked",
            site.url("/x", "c.test"): "blocked",
            site.url("/x", "www.c.test"): "blocked",
            site.url(f"/to/{target}", "b.test"): "blocked",
            site.url("/bad.jpg?x", "a.test"): "success",
        }
        stage = Fetch(manners(blocked=(str(lists[0]),)))
        out = stage(rows(*urls)).to_pylist()
        assert {row["url"]: row["status"] for row in out} == urls
        assert not site.hosts["c.test"] and not site.hosts["www.c.test"]
        assert "/bad.jpg" not in site.paths("a.test")
        both = Fetch(manners(blocked=(lists[0].as_uri(), str(lists[1]))))
        row = both(rows(site.url("/fine.jpg", "a.test"))).to_pylist()[0]
        assert row["status"] == "blocked" and row["image"] is None and row["sha256"]
        assert both(rows("a.tar#1", image=JPEG))["status"].to_pylist() == ["blocked"]


def test_block_list_mistakes_and_identity(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    for wrong in ("not a host", "ftp://a.test/x", "abc", "a" * 63 + "g"):
        path.write_text(f"a.test\n{wrong}\n")
        with pytest.raises(ArtifactError, match=r"list.txt, line 2: .* is no http"):
            read_block_list([str(path)])
    with pytest.raises(ArtifactError, match=r"cannot read .*nowhere.txt"):
        read_block_list([str(tmp_path / "nowhere.txt")])
    path.write_text("b.test\na.test\n")
    other = tmp_path / "other.txt"
    other.write_text("# same\nA.test\nb.test\n")
    assert block_list_digest([str(path)]) == block_list_digest([str(other)])
    other.write_text("c.test\n")
    assert block_list_digest([str(path)]) != block_list_digest([str(other)])


def test_stage_is_picklable_and_stages_share_the_web() -> None:
    with Site() as site:
        web = BackgroundDownloader(manners().manners())
        one, two = Fetch(manners(), web), Fetch(manners(), web)
        assert (
            statuses(one, site.url("/1", "a.test")) == statuses(two, site.url("/2", "a.test")) == ["success"]
        )
        assert site.asked["/robots.txt"] == 1
        copies = pickle.loads(pickle.dumps([one, two]))
        assert copies[0].web is copies[1].web
        assert statuses(copies[0], site.url("/3", "a.test")) == ["success"]
        assert site.asked["/robots.txt"] == 2  # a copy knows nothing


class Flood(Hostile):
    """Bodies without an end, and small ones that unpack to 9 MB."""

    bomb = answer(gzip.compress(bytes(9_000_000)), Content_Encoding="gzip")

    def reply(self, path: str, times: int, host: str) -> bytes | AsyncIterator[bytes]:
        return self.bomb if "bomb" in path else endless()


@pytest.mark.parametrize("path", ["/endless", "/bomb"])
def test_memory_is_bounded_whatever_comes(path: str) -> None:
    """24 at once, each cut at 4 MB, would hold 96 MB; they may hold 4 + 4 MB and 1 MB a connection."""
    sets = manners(
        robots=False, per_host=24, concurrency=24, max_bytes=4_000_000, memory_bytes=4_000_000, deadline_s=60
    )
    with Flood() as flood, Site() as site:
        assert statuses(Fetch(sets), site.url("/warm", "a.test")) == ["success"]  # what is imported late
        tracemalloc.start()
        out = Fetch(sets)(rows(*(flood.url(f"{path}/{i}", "a.test") for i in range(24))))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert set(out["status"].to_pylist()) == {"too_big"}
    servers = 24 * 250_000  # the server lives in this process too
    assert peak < 4_000_000 + 4_000_000 + 24 * 1_000_000 + servers


def test_who_asks() -> None:
    with Site() as site:
        fetch_one(site.url("/a", "a.test"), allow_private=HOSTS, contact="https://example.org/crawler")
        assert site.headers["user-agent"] == "capfilt/0.1 (+https://example.org/crawler)"
        assert "cookie" not in site.headers
    for wrong, message in (
        ({"contact": "a\r\nX-Evil: 1"}, "printable ASCII"),
        ({"optout": ("NoAI",)}, "lower case"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**wrong)
