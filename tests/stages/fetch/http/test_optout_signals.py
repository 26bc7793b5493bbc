"""Signals against the training of models: Content-Usage, Content-Signal, TDMRep, as headers and in files."""

import json
import re
from random import Random

import pytest
from yarl import URL

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.http import optout, robots, site_files
from capfilt.stages.fetch.http.optout import (
    parse_tdm_file,
    read_reservation,
    signal_forbids_training,
    usage_forbids_training,
)
from capfilt.stages.fetch.http.robots import parse_rules
from capfilt.stages.fetch.stage import Fetch
from tests.stages.fetch.hostile_server import JPEG, http_response, make_batch
from tests.stages.fetch.http.sites import Site, site_config

pytestmark = pytest.mark.usefixtures("loopback_only", "site_names")
ALL = ("content-usage", "content-signal", "tdm-reservation", "tdmrep.json")


@pytest.mark.parametrize(
    ("preferences", "forbids"),
    [
        ("train-ai=n", True),
        (" search=y ,\ttrain-ai=n ", True),
        ("train-ai=y, train-ai=n", True),  # the last one counts
        ("train-ai=n, train-ai=y", False),
        ("train-ai;allow=y, train-ai=n;x=1", True),
        ("train-ai=N", False),
        ("Train-AI=n", False),  # keys are lower case, else the whole is no dictionary
        ('train-ai="n"', False),
        ("train-ai=?0", False),
        ("train-ai", False),
        ("train-ai=(n)", False),
        ("search=n, bots=n", False),
        ("train-ai=n search=y", False),
        ("train-ai=n, é=y", False),
        ("", False),
        ("x=1, " * 817 + "train-ai=n", True),  # 4,095 characters
        ("x=1, " * 817 + "  train-ai=n", False),
    ],
)
def test_content_usage_is_a_structured_dictionary(preferences, forbids):
    assert len(preferences) <= 4_097 and usage_forbids_training(preferences) is forbids


@pytest.mark.parametrize(
    ("signals", "forbids"),
    [
        ("ai-train=no", True),
        ("search=yes, AI-Train = NO", True),
        ("search=yes,ai-train=no,ai-input=no", True),
        ("ai-train=yes", False),
        ("ai-train=none", False),
        ("ai-input=no", False),
        ("", False),
    ],
)
def test_content_signals(signals, forbids):
    assert signal_forbids_training(signals) is forbids


@pytest.mark.parametrize(
    ("headers", "reserved"),
    [([], None), (["1"], True), ([" 1 "], True), (["0"], False), (["0", "1"], True), (["yes"], None)],
)
def test_tdm_header(headers, reserved):
    assert read_reservation(headers) is reserved


def said(text, path):
    return dict(parse_rules(text.encode()).judge(f"http://a.test{path}"))


DRAFT = """
User-Agent: *
Allow: /
Disallow: /never/
Content-Usage: train-ai=n
Content-Usage: /ai-ok/ train-ai=y

User-Agent: ExampleBot
Allow: /
Content-Usage: train-ai=y
"""


def test_the_example_of_the_draft():
    assert said(DRAFT, "/test") == {"content-usage": "robots.txt: Content-Usage: train-ai=n"}
    assert said(DRAFT, "/ai-ok/test") == {}
    assert said(DRAFT.replace("ExampleBot", "CapFilt"), "/test") == {}


@pytest.mark.parametrize(
    ("lines", "path", "spoken"),
    [
        (["content-usage :/a train-ai=n # why"], "/a/b", ["content-usage"]),
        (["Content-Usage: /a train-ai=n"], "/b", []),
        (["Content-Usage: /a train-ai=n", "Content-Usage: /a/b search=n"], "/a/b", []),  # longer, and unknown
        (["Content-Usage: /a train-ai=y", "Content-Usage: /a train-ai=n"], "/a", ["content-usage"]),
        (["Content-Usage: / train-ai=y", "Content-Usage: train-ai=n"], "/a", []),
        (["Content-Usage: /*.jpg$ train-ai=n"], "/x/y.jpg", ["content-usage"]),
        (["Content-Usage: /*.jpg$ train-ai=n"], "/x/y.jpg?z", []),
        (["Content-Usage: train-ai"], "/", []),
        (["Content-Usage:"], "/", []),
        (["Content-Signal: search=yes, ai-train=no"], "/", ["content-signal"]),
        (["Content-signal: /a ai-train=no"], "/b", []),
        (
            ["Content-Signal: ai-train=no", "Content-Usage: train-ai=n"],
            "/",
            ["content-signal", "content-usage"],
        ),
    ],
)
def test_rules_of_robots_txt_speak_for_the_paths_that_they_name(lines, path, spoken):
    assert sorted(said("\n".join(["User-agent: *", *lines, "Allow: /"]), path)) == spoken


def test_only_the_group_for_us_counts_if_there_is_one():
    text = "User-agent: *\nContent-Usage: train-ai=n\n\nUser-agent: capfilt\nDisallow: /x\n"
    assert said(text, "/") == {} and list(said(text.replace("capfilt", "otherbot"), "/")) == ["content-usage"]
    shared = "User-agent: otherbot\nUser-agent: capfilt\nContent-Signal: ai-train=no\n"
    assert list(said(shared, "/")) == ["content-signal"]


def test_the_longest_path_decides_as_brute_force_says():
    random = Random(3)
    for _ in range(60):
        paths = ["/" + "".join(random.choices("ab/", k=random.randint(0, 4))) for _ in range(6)]
        rules = [(path, random.choice("yn")) for path in paths]
        text = "\n".join(["User-agent: *", *(f"Content-Usage: {path} train-ai={v}" for path, v in rules)])
        for path in ["/" + "".join(random.choices("ab/", k=5)) for _ in range(10)]:
            matching = [(len(rule), value == "n") for rule, value in rules if path.startswith(rule)]
            assert bool(said(text, path)) is (max(matching)[1] if matching else False), (text, path)


def test_matching_preferences_has_the_limits_of_the_rules_of_robots_txt():
    beyond = "\n".join(f"Content-Usage: /x*{i} train-ai=n" for i in range(robots.MAX_WILDCARD_RULES + 1))
    text = f"User-agent: *\n{beyond}\nContent-Usage: /{'y' * robots.MAX_RULE_CHARS} train-ai=n"
    rules = parse_rules(text.encode())
    assert not rules.judge("http://a.test/b") and rules.judge(f"http://a.test/x-{robots.MAX_WILDCARD_RULES}")
    assert rules.judge(f"http://a.test/{'y' * robots.MAX_RULE_CHARS}")
    assert rules.size > len(beyond)


def reserves(rules, path):
    items = [{"location": location, "tdm-reservation": value} for location, value in rules]
    return parse_tdm_file(json.dumps(items).encode(), 1).reserves(URL(f"http://a.test{path}", encoded=True))


@pytest.mark.parametrize(
    ("rules", "path", "reserved"),
    [
        ([("/", 1)], "/a.jpg", True),
        ([("/a/", 1), ("/b/*.jpg", 0)], "/b/c.jpg", False),
        ([("/b/*.jpg", 0), ("/b/", 1)], "/b/c.jpg", False),  # the first in sequence
        ([("/b/", 1), ("/b/*.jpg", 0)], "/b/c.jpg", True),
        ([("/a$", 1)], "/a", True),
        ([("/a$", 1)], "/ab", False),
        ([("/a*b*c$", 1)], "/a-b-b-c", True),
        ([("/a*b*c$", 1)], "/a-c-b", False),
        ([("/*aa$", 1)], "/a", False),
        ([("a/", "1")], "/a/b", True),
        ([("/%7Ea/é", 1)], "/~a/%C3%A9b", True),
        ([("/a%2fb", 1)], "/a%2Fb", True),
        ([("/foo-%24", 1)], "/foo-%24x", True),
        ([("/a", 2), ("/a", True), ("/a", None)], "/a", False),
        ([("/A", 1)], "/a", False),
    ],
)
def test_the_first_rule_of_tdmrep_json_that_matches_decides(rules, path, reserved):
    assert reserves(rules, path) is reserved


def test_patterns_match_as_a_regular_expression_does():
    random = Random(5)
    for _ in range(2_000):
        pattern = "/" + "".join(random.choices("ab*", k=random.randint(0, 6))) + random.choice(["", "$"])
        path = "/" + "".join(random.choices("ab", k=random.randint(0, 7)))
        expression = (
            re.escape(pattern.removesuffix("$")).replace(r"\*", ".*")
            + pattern[len(pattern.removesuffix("$")) :]
        )
        assert reserves([(pattern, 1)], path) is bool(re.match(expression.replace("$", r"\Z"), path))


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[1, null, {}, [1]]", b"\xff", b"[" * 200_000, b'[{"location": 1, "tdm-reservation": 1}]'],
)
def test_a_file_that_is_no_list_of_rules_says_nothing(body):
    assert not parse_tdm_file(body, 1).rules


def test_a_tdmrep_json_is_bounded():
    items = [{"location": f"/{i}/", "tdm-reservation": 1} for i in range(optout.MAX_TDM_RULES + 1)]
    rules = parse_tdm_file(b"\xef\xbb\xbf" + json.dumps(items).encode(), 1)
    assert rules.reserves(URL(f"http://a.test/{optout.MAX_TDM_RULES - 1}/"))
    assert not rules.reserves(URL(f"http://a.test/{optout.MAX_TDM_RULES}/"))
    long = "/" + "x" * optout.MAX_TDM_PATTERN_CHARS
    assert reserves([(long, 1)], long[: optout.MAX_TDM_PATTERN_CHARS])


class SignalSite(Site):
    """Sends a tdmrep.json for each host, and the headers that a path names."""

    def __init__(self, tdm=None, **files):
        super().__init__(**files)
        self.tdm = tdm or {}

    def respond(self, path, count, host):
        if path == "/.well-known/tdmrep.json":
            return self.tdm.get(host.partition(".")[0], http_response(status="404 None"))
        if path.startswith("/with/"):
            name, value = bytes.fromhex(path.rpartition("/")[2]).decode().split(": ")
            return http_response(JPEG, **{name.replace("-", "_"): value})
        return super().respond(path, count, host)


COLUMNS = ("status", "optout_signal", "error_message")


def with_header(header):
    return f"/with/{header.encode().hex()}"


def fetch(server, host, *paths, **config):
    table = Fetch(site_config(**config))(
        make_batch(*(f"http://{host}:{server.port}{path}" for path in paths))
    )
    return [
        tuple(row[name] for name in ("status", "optout_signal", "error_message")) for row in table.to_pylist()
    ]


HEADERS = {
    "Content-Usage: train-ai=n": "content-usage",
    "tdm-reservation: 1": "tdm-reservation",
    "X-Robots-Tag: noai": "x-robots-tag",
}


@pytest.mark.parametrize(("header", "signal"), HEADERS.items())
def test_a_header_that_is_honored_ends_the_row_and_another_is_noted(header, signal):
    with SignalSite() as server:
        assert fetch(server, "a.test", with_header(header)) == [("optout", signal, header)]
        if signal != "x-robots-tag":
            expected = [("success", signal, None)]
            assert fetch(server, "a.test", with_header(header), optout_signals=()) == expected
        assert fetch(server, "a.test", "/ok.jpg") == [("success", None, None)]


def test_a_rule_of_robots_txt_costs_no_request():
    usage = http_response(b"User-agent: *\nContent-Usage: /ok train-ai=n\nContent-Signal: ai-train=no")
    with SignalSite(a=usage) as server:
        both = "content-signal, content-usage"
        reason = "robots.txt: Content-Usage: train-ai=n"
        assert fetch(server, "a.test", "/ok.jpg") == [("optout", both, reason)]
        assert dict(server.requests) == {"/robots.txt": 1}
        signal = ("content-signal",)
        assert fetch(server, "a.test", "/ok.jpg", optout_signals=signal)[0][2].endswith("ai-train=no")
        assert fetch(server, "a.test", "/ok.jpg", optout_signals=())[0][:2] == ("success", both)
        assert fetch(server, "a.test", "/ok.jpg", robots=False)[0][:2] == ("success", None)


TDM = http_response(json.dumps([{"location": "/", "tdm-reservation": 1}]).encode())


def test_tdmrep_json_is_requested_once_per_host_and_only_if_it_is_honored():
    with SignalSite(tdm={"a": TDM, "b": http_response(status="500 No")}) as server:
        assert fetch(server, "a.test", "/ok.jpg", "/ok.jpg?2")[0] == ("success", None, None)
        assert server.requests["/.well-known/tdmrep.json"] == 0
        found = fetch(server, "a.test", *(f"/ok.jpg?{i}" for i in range(20)), optout_signals=ALL)
        assert set(found) == {("optout", "tdmrep.json", "tdmrep.json: tdm-reservation 1")}
        assert server.requests["/.well-known/tdmrep.json"] == 1
        not_reserved, other = with_header("tdm-reservation: 0"), with_header("X-Other: 1")
        found = fetch(server, "a.test", not_reserved, other, optout_signals=ALL)
        assert [each[0] for each in found] == ["success", "optout"], "the header outranks the file"
        for host in ("b.test", "c.test"):
            assert fetch(server, host, "/ok.jpg", optout_signals=ALL, retries=0)[0][0] == "success"
        assert (
            fetch(server, "a.test", "/ok.jpg", optout_signals=("tdmrep.json",), robots=False)[0][0]
            == "optout"
        )


def test_rules_of_all_hosts_together_are_bounded(monkeypatch):
    monkeypatch.setattr(site_files, "MAX_CHARS", 5)
    with SignalSite(tdm=dict.fromkeys("ab", TDM)) as server:
        stage = Fetch(site_config(optout_signals=ALL))
        for host in ("a.test", "b.test", "a.test", "b.test"):
            stage(make_batch(*(f"http://{host}:{server.port}/ok.jpg?{i}" for i in range(3))))
        assert server.requests["/.well-known/tdmrep.json"] == 2, "2 characters of each fit"
        monkeypatch.setattr(site_files, "MAX_CHARS", 3)
        stage = Fetch(site_config(optout_signals=ALL))
        for host in ("a.test", "b.test", "a.test"):
            stage(make_batch(f"http://{host}:{server.port}/ok.jpg"))
        assert server.requests["/.well-known/tdmrep.json"] == 2 + 3


def test_hostile_files_end():
    """A tdmrep.json and a robots.txt as large as is read, of the patterns that cost most."""
    pattern = "/" + "*a" * 1_000
    tdm = json.dumps([{"location": f"{pattern}{i}", "tdm-reservation": 1} for i in range(2_000)])
    usage = "User-agent: *\n" + "\n".join(f"Content-Usage: /{'*a' * 100}{i} train-ai=n" for i in range(2_400))
    files = {"a": http_response(usage.encode())}
    with SignalSite(tdm={"a": http_response(tdm.encode())}, **files) as server:
        found = fetch(server, "a.test", *(f"/ok.jpg?{'a' * 2_000}{i}" for i in range(3)), optout_signals=ALL)
        assert {each[0] for each in found} <= {"optout", "success"}


def test_signals_are_chosen_by_name():
    assert site_config().honored_signals == ALL[:3] and site_config(optout_signals=()).honored_signals == ()
    with pytest.raises(ValueError, match="name each signal once"):
        site_config(optout_signals=("content-usage", "content-usage"))
    with pytest.raises(ValueError, match="backend img2dataset has no optout_signals"):
        FetchConfig(backend="img2dataset", optout_signals=ALL, robots=False, per_host_per_second=None)
