"""robots.txt: the rules, the limits, and what a failed request for it means."""

import threading
import time
from collections.abc import AsyncIterator

import pytest
from protego._urlpattern import _URLPattern

from capfilt.stages.fetch.http.robots import (
    MAX_BYTES,
    MAX_RULE_CHARS,
    MAX_WILDCARD_RULES,
    RULES_UNKNOWN,
    RobotsRules,
    parse_rules,
    rules_after_failure,
)
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.status import STATUSES, SUCCESS, Failure
from tests.stages.fetch.hostile_server import http_response
from tests.stages.fetch.http.sites import Site, site_config, statuses

pytestmark = pytest.mark.usefixtures("loopback_only", "site_names")

RULES = [  # robots.txt, path, whether it is allowed (RFC 9309; the last but three from its section 2.2.2)
    ("", "/a.jpg", True),
    ("User-agent: *\nDisallow: /", "/a.jpg", False),
    ("User-agent: *\nDisallow:", "/a.jpg", True),
    ("User-agent: *\nDisallow: /\n\nUser-agent: capfilt\nDisallow: /b", "/a.jpg", True),
    ("User-agent: *\nAllow: /\n\nUser-agent: CapFilt\nDisallow: /a", "/a.jpg", False),
    ("User-agent: capfilt/2.0\nUser-agent: x\nDisallow: /a", "/a.jpg", False),
    ("User-agent: cap\nDisallow: /", "/a.jpg", True),
    ("User-agent: otherbot\nDisallow: /\nUser-agent: *\nDisallow: /b", "/a.jpg", True),
    ("User-agent: *\nDisallow: /b\n\nUser-agent: otherbot\nDisallow: /a", "/a.jpg", True),
    ("user-agent: *\nuser-agent: otherbot\ndisallow: /a", "/a.jpg", False),
    (
        "User-agent: otherbot\n# comment\nSitemap: http://a.test/s\nUser-agent: *\nDisallow: /a",
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


def is_allowed(rules: RobotsRules, path: str) -> bool:
    try:
        rules.check(f"http://a.test{path}")
    except Failure as failure:
        assert failure.status == "robots"
        return False
    return True


@pytest.mark.parametrize(("text", "path", "allowed"), RULES)
def test_rules(text: str, path: str, allowed: bool) -> None:
    assert is_allowed(parse_rules(text.encode()), path) == allowed


def test_rules_of_many_agents_stay_small() -> None:
    """8,000 agents over 8,000 rules: the parsed rules must not hold every rule for every agent."""
    agents = "".join(f"User-agent: x{i}\n" for i in range(8_000))
    rules = "".join(f"Disallow: /{i}\n" for i in range(8_000))
    for group, allowed in (("", True), ("User-agent: *\n", False)):
        parsed = parse_rules((agents + group + rules).encode()[:MAX_BYTES])
        assert parsed.size < len(rules) + 100
        assert is_allowed(parsed, "/777") == allowed


def test_only_the_first_500_kib_count() -> None:
    head, rule = b"User-agent: *\n", b"\nDisallow: /images\n"

    def padded(size: int) -> bytes:
        """A robots.txt whose rule, with its line break, ends after `size` bytes."""
        return head + b"#" * (size - len(head) - len(rule)) + rule

    assert not is_allowed(parse_rules(padded(512_000)), "/images")
    # The last line is cut, to "Disallow: /" below; a cut rule would disallow too much, so it is dropped.
    # Longer files are the same as their first 500 KiB, which is what the downloader reads.
    for cut in (1, 2, 6, 7, 8, 30):
        assert is_allowed(parse_rules(padded(512_000 + cut)[:512_000]), "/a.jpg")
        assert is_allowed(parse_rules(padded(512_000 + cut)), "/images")
        assert is_allowed(parse_rules(padded(512_000 + cut)), "/a.jpg")


def wildcards(count: int, field: str = "Disallow") -> str:
    return "".join(f"{field}: /*w{i}x\n" for i in range(count))


def test_rules_with_wildcards_beyond_the_limit_count_by_their_beginning() -> None:
    within = "User-agent: *\n" + wildcards(MAX_WILDCARD_RULES - 1) + "Disallow: /b/*.jpg\n"
    rules = parse_rules(within.encode())
    assert not is_allowed(rules, "/b/1.jpg") and not is_allowed(rules, "/w7x")
    assert is_allowed(rules, "/b/1.png") and rules.beyond_limits is None
    beyond = "User-agent: *\n" + wildcards(MAX_WILDCARD_RULES) + "Disallow: /b/*.jpg\nAllow: /b/1.png\n"
    rules = parse_rules(beyond.encode())
    assert not is_allowed(rules, "/b/1.jpg") and not is_allowed(rules, "/w7x")
    assert not is_allowed(rules, "/b/1.png") and is_allowed(rules, "/c/1.png")


def test_an_allow_with_a_wildcard_beyond_the_limit_is_ignored() -> None:
    text = "User-agent: *\n" + wildcards(MAX_WILDCARD_RULES, "Allow") + "Disallow: /a\nAllow: /a*.png$\n"
    assert not is_allowed(parse_rules(text.encode()), "/a/1.png")
    fewer = text.replace("Allow: /*w0x\n", "")
    assert is_allowed(parse_rules(fewer.encode()), "/a/1.png")


@pytest.mark.parametrize("field", ["Disallow:", "disallow :", "DISALLOW", "Dissallow:"])
@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ("/" + "a" * 3000, "/" + "a" * 3000),
        ("/" + "a" * 3000 + "$", "/" + "a" * 3000),
        ("/" + "a" * 2046 + "$" + "b" * 100, "/" + "a" * 2046 + "%24" + "b" * 100),
        ("/" + "a" * 2046 + "%2Cb", "/" + "a" * 2046 + "%2Cb"),
        ("/" + "a" * 2043 + "%E3%83%84", "/" + "a" * 2043 + "%E3%83%84"),
        ("/" + "a" * 2046 + "ツ" + "b", "/" + "a" * 2046 + "%E3%83%84b"),
        ("/*" + "a" * 3000, "/x" + "a" * 3000),
        ("*" + "a" * 3000, "/x" + "a" * 3000),
        ("/%2*" + "a" * 3000, "/%2a" + "a" * 3000),
    ],
)
def test_a_rule_beyond_the_limit_of_its_length_disallows_at_least_what_it_says(field, rule, url) -> None:
    rules = parse_rules(f"User-agent: *\n{field} {rule}\nAllow: /{'a' * 2000}".encode())
    assert not is_allowed(rules, url)
    assert is_allowed(rules, "/other") == (not rule.startswith(("/*", "*", "/%")))


def test_the_limit_of_the_length_of_a_rule() -> None:
    exact = "/" + "a" * (MAX_RULE_CHARS - 1)
    assert parse_rules(f"User-agent: *\nDisallow: {exact}".encode()).beyond_limits is None
    assert parse_rules(f"User-agent: *\nDisallow: {exact}a".encode()).beyond_limits is not None
    allowed = "User-agent: *\nDisallow: /\nAllow: {}\n"
    assert is_allowed(parse_rules(allowed.format(exact).encode()), exact)
    assert not is_allowed(parse_rules(allowed.format(exact + "a").encode()), exact + "a")


def test_the_limits_hold_for_each_group() -> None:
    """Rules for others do not use up the limit of ours, and ours stay apart from theirs."""
    many = "User-agent: *\n" + wildcards(MAX_WILDCARD_RULES + 5) + "Disallow: /c*d\n"
    ours = "User-agent: capfilt\nDisallow: /a*b\n"
    for text in (many + ours, ours + many, "User-agent: x\nDisallow: /\n" + ours + many):
        rules = parse_rules(text.encode())
        assert not is_allowed(rules, "/a1b") and is_allowed(rules, "/a") and is_allowed(rules, "/c1d")
    nothing_left = f"User-agent: capfilt\nAllow: /{'a' * 3000}\n\nUser-agent: *\nDisallow: /\n"
    assert is_allowed(parse_rules(nothing_left.encode()), "/a")


def test_matching_is_bounded_by_the_number_of_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 KiB of rules with wildcards; without a limit 34,000 of them would be tried for every url."""
    tried = []
    original = _URLPattern.match
    monkeypatch.setattr(_URLPattern, "match", lambda self, url: (tried.append(0), original(self, url))[1])
    body = ("User-agent: *\n" + wildcards(40_000, "Allow")).encode()
    assert len(body) > MAX_BYTES
    assert is_allowed(parse_rules(body), "/" + "a" * 7_000)
    assert len(tried) == MAX_WILDCARD_RULES


def test_rules_are_cached_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    assert parse_rules(b"").expires_at == rules_after_failure(Failure("http_404", ""), 5.0).expires_at
    assert parse_rules(b"").expires_at == 1000.0 + 86_400
    assert rules_after_failure(Failure("timeout", ""), 5.0).expires_at == 1005.0


def test_failures_that_allow_everything_and_failures_that_leave_the_rules_unknown() -> None:
    allow_all = {
        "http_403", "http_404", "http_4xx", "http_invalid", "redirect", "private_address", "robots", "optout",
        "blocked", "hash_mismatch", "bad_url", "missing_file", "bad_tar", "too_big", "empty_body",
        "not_image", "decode", "too_small", "too_many_pixels", "aspect", "rate", "crashed",
    }  # fmt: skip
    assert set(STATUSES) - {SUCCESS} - allow_all == RULES_UNKNOWN
    for status in allow_all:
        rules_after_failure(Failure(status, "x"), 5.0).check("http://a.test/")
    for status in RULES_UNKNOWN:
        with pytest.raises(Failure, match=r"^robots\.txt is unavailable: x$") as caught:
            rules_after_failure(Failure(status, "x"), 5.0).check("http://a.test/")
        assert caught.value.status == status and not caught.value.retryable


def test_crawl_delay_is_that_of_our_group() -> None:
    text = "User-agent: *\nCrawl-delay: 7\nDisallow:\n\nUser-agent: capfilt\nCrawl-delay: 2.5\nDisallow: /x"
    assert parse_rules(text.encode()).crawl_delay == 2.5
    assert parse_rules(text.partition("\n\n")[0].encode()).crawl_delay == 7
    assert parse_rules(b"User-agent: x\nCrawl-delay: 7").crawl_delay == 0


def test_robots_txt_is_requested_once_per_host() -> None:
    rules = http_response(b"User-agent: *\nDisallow: /private/")
    with Site(a=rules, b=rules) as site:
        stage = Fetch(site_config())
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
        without_robots = Fetch(site_config(robots=False))
        assert statuses(without_robots, site.url("/private/x", "a.test")) == ["success"]
        assert site.requests["/robots.txt"] == 2


@pytest.mark.parametrize(
    ("response", "status", "requests"),
    [
        (http_response(status="404 None"), "success", 1),
        (http_response(status="403 No"), "success", 1),
        (http_response(status="500 Error"), "http_5xx", 3),
        (http_response(status="429 Slow", Retry_After="60"), "http_429", 1),
        (http_response(b""), "success", 1),
        (b"SSH-2.0-x\r\n", "success", 1),
        (http_response(status="301 To", Location="http://b.test:{port}/robots.txt"), "robots", 1),
        (http_response(status="301 To", Location="/robots.txt"), "success", 1),
        (http_response(status="301 To", Location="http://169.254.169.254/robots.txt"), "success", 1),
        (http_response(b"User-agent: *\nDisallow: /\n" + b"#" * 2_000_000), "robots", 1),
    ],
)
def test_unusual_responses_to_robots_txt(response: bytes, status: str, requests: int) -> None:
    with Site(b=http_response(b"User-agent: *\nDisallow: /")) as site:
        site.robots["a"] = response.replace(b"{port}", str(site.port).encode())
        stage = Fetch(site_config())
        for _ in range(2):
            assert statuses(stage, site.url("/a.jpg", "a.test")) == [status]
        assert site.paths("a.test").count("/robots.txt") == requests
        assert ("/a.jpg" in site.paths("a.test")) == (status == "success")


class RedirectingSite(Site):
    """Redirects robots.txt `hops` times before it is sent."""

    def __init__(self, hops: int) -> None:
        super().__init__()
        self.hops = hops

    def respond(self, path: str, count: int, host: str) -> bytes | AsyncIterator[bytes]:
        if path == "/robots.txt":
            return http_response(status="301 To", Location="/1")
        hop = int(path[1:]) if path[1:].isdigit() else 0
        if not hop:
            return super().respond(path, count, host)
        if hop == self.hops:
            return http_response(b"User-agent: *\nDisallow: /")
        return http_response(status="301 To", Location=f"/{hop + 1}")


@pytest.mark.parametrize(("hops", "status"), [(5, "robots"), (6, "success")])
def test_robots_txt_is_followed_over_five_redirects(hops: int, status: str) -> None:
    """Whatever `max_redirects` says about images; more redirects count as a missing file."""
    with RedirectingSite(hops) as site:
        assert statuses(Fetch(site_config(max_redirects=0)), site.url("/a.jpg", "a.test")) == [status]


def test_unavailable_robots_txt_is_requested_again_after_the_rest() -> None:
    with Site(a=http_response(status="500 Error")) as site:
        stage = Fetch(site_config(retries=0, host_rest_s=0.2))
        assert statuses(stage, site.url("/a.jpg", "a.test")) == ["http_5xx"]
        site.robots["a"] = http_response(b"")
        time.sleep(0.3)
        assert statuses(stage, site.url("/a.jpg", "a.test")) == ["success"]
        assert site.paths("a.test") == ["/robots.txt", "/robots.txt", "/a.jpg"]


@pytest.mark.parametrize(("rules", "blocks"), [(9_000, True), (11_000, False)])
def test_long_rules_are_matched_outside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, rules: int, blocks: bool
) -> None:
    threads = []
    check = RobotsRules.check
    monkeypatch.setattr(
        RobotsRules,
        "check",
        lambda self, url: (threads.append(threading.current_thread().name), check(self, url)),
    )
    lines = b"User-agent: *\n" + b"Disallow: /*a*b\n" * (rules // 16)
    with Site(a=http_response(lines)) as site:
        assert statuses(Fetch(site_config()), site.url("/x", "a.test"), site.url("/xab", "a.test")) == [
            "success",
            "robots",
        ]
    assert [name == "fetch-loop" for name in threads] == [blocks] * 2
