"""Parsers of what servers and url lists say: no exception but a `Failure`, and the right value of what is
well formed, by an independent reading."""

import email.utils
import gzip
import math
import time
import urllib.robotparser
import zlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import brotli
import fsspec
from backports import zstd
from yarl import URL

from capfilt.stages.fetch.http.codings import OVERHEAD_BYTES, Decoding
from capfilt.stages.fetch.http.optout import find_optout
from capfilt.stages.fetch.http.response import _parse_retry_after
from capfilt.stages.fetch.http.robots import parse_rules
from capfilt.stages.fetch.urls.blocklist import read_block_list
from capfilt.stages.fetch.urls.parse import parse_http_url, parse_location
from capfilt.stages.status import Failure
from capfilt.stages.storage.artifacts import ArtifactError
from tests.properties import damage, draws, numbers_of_cases, phrase, text

URL_TOKENS = (
    "http://",
    "https://",
    "HTTP:",
    "//",
    "a.test",
    "xn--",
    ":80",
    ":99999",
    "[::1]",
    "127.1",
    "u:p@",
)
URL_TOKENS += (
    "/",
    "\\",
    "?",
    "#",
    "%2F",
    "%zz",
    "..",
    ".",
    "a",
    "é",
    " ",
    "ftp:",
    "data:,",
    "\u200b",
    "0x7f.1",
)
LEGAL = "abcXYZ019-_~!$&'()*+,;=:@"


@numbers_of_cases
def test_urls_are_parsed_or_bad_and_parsing_again_changes_nothing(count):
    parsed = 0
    for rng in draws("urls", count):
        written = phrase(rng, URL_TOKENS)
        if rng.random() < 0.5:
            written = "http://a.test/" + written
        try:
            url = parse_http_url(written)
        except Failure as failure:
            assert failure.status == "bad_url"
            continue
        parsed += 1
        assert url.scheme in ("http", "https") and url.raw_host, written
        assert str(parse_http_url(str(url))) == str(url), written
        assert url.raw_path_qs.isascii() and not set(url.raw_path_qs) & set(" \t\r\n#"), written
    assert parsed > count // 4


@numbers_of_cases
def test_legal_targets_are_sent_as_written(count):
    for rng in draws("targets", count):
        part = [rng.choice([*LEGAL, "%2F", "%e9", "%7E", "%25"]) for _ in range(rng.randrange(12))]
        path = "/" + "".join(part)
        query = "".join(rng.sample(part, len(part))).replace("'", "")  # browsers quote it in a query
        target = path + (f"?{query}" if query else "")
        assert parse_http_url(f"http://a.test{target}").raw_path_qs == target
        assert parse_location(target, URL("http://a.test/x/y?z")).raw_path_qs == target


@numbers_of_cases
def test_locations_of_any_bytes_are_targets_or_bad(count):
    base = URL("http://a.test/folder/page?x=1")
    for rng in draws("locations", count):
        octets = rng.randbytes(rng.randrange(20)) if rng.random() < 0.5 else phrase(rng, URL_TOKENS).encode()
        try:
            url = parse_location(octets.decode("utf-8", "surrogateescape"), base)
        except Failure as failure:
            assert failure.status == "bad_url"
            continue
        assert str(url).isascii() and url.raw_host


ROBOTS_TOKENS = (
    "User-agent: ",
    "user agent:",
    "*",
    "capfilt",
    "Disallow: ",
    "Allow:",
    "\n",
    "\r\n",
    "/",
    "$",
)
ROBOTS_TOKENS += (
    "Crawl-delay: ",
    "nan",
    "inf",
    "-1",
    "1e999",
    "0.5",
    "Request-rate: 1/",
    "Sitemap:",
    "#",
    "%2F",
)
ROBOTS_TOKENS += ("Visit-time: 0600-0845", "é", "\ufeff", "/a*b$", "/" * 40, "*" * 30, "\0", ":")


@numbers_of_cases
def test_robots_files_of_any_bytes_are_rules(count):
    for rng in draws("robots", count):
        body = phrase(rng, ROBOTS_TOKENS, 40).encode()
        rules = parse_rules(damage(rng, body) if rng.random() < 0.3 else body)
        assert 0 <= rules.crawl_delay < math.inf, body
        for url in ("http://a.test/", "http://a.test/%zz*$?" + "a" * 99):
            try:
                rules.check(url)
            except Failure as failure:
                assert failure.status == "robots"


@numbers_of_cases
def test_disallowed_prefixes_are_those_of_the_standard_library(count):
    """Only `Disallow`: with `Allow` the standard library takes the first rule and RFC 9309 the longest."""
    for rng in draws("disallow", count):
        groups = []
        for _ in range(rng.randrange(1, 4)):
            agents = rng.sample(["*", "capfilt", "otherbot"], rng.randrange(1, 3))
            paths = [
                "/" + "".join(rng.choices("abc", k=rng.randrange(4))) for _ in range(rng.randrange(1, 4))
            ]
            groups.append([f"User-agent: {a}" for a in agents] + [f"Disallow: {p}" for p in paths])
        if sum("capfilt" in line for group in groups for line in group) > 1:
            continue  # RFC 9309 joins the groups of an agent, the standard library takes the first
        if sum("*" in line for group in groups for line in group) > 1:
            continue
        lines = [line for group in groups for line in [*group, ""]]
        oracle = urllib.robotparser.RobotFileParser()
        oracle.parse(lines)
        rules = parse_rules("\n".join(lines).encode())
        for path in ("/", "/a", "/ba", "/ab/", "/bbb", "/cab"):
            try:
                rules.check(f"http://a.test{path}")
                is_allowed = True
            except Failure:
                is_allowed = False
            assert is_allowed == oracle.can_fetch("capfilt", f"http://a.test{path}"), (lines, path)


RETRY_TOKENS = (
    "120",
    "-1",
    "1e9",
    "Wed, 21 Oct 2026 07:28:00 GMT",
    "Wed, ",
    "21 Oct ",
    "2026",
    "07:28",
    "+9999",
)
RETRY_TOKENS += (
    "GMT",
    ":",
    ",",
    "99999999999",
    "٣",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
)


def seconds_of(value):
    return _parse_retry_after(SimpleNamespace(headers={"Retry-After": value}))


@numbers_of_cases
def test_retry_after_is_a_number_of_seconds_or_nothing(count):
    for rng in draws("retry after", count):
        value = phrase(rng, RETRY_TOKENS, 6) if rng.random() < 0.7 else text(rng)
        seconds = seconds_of(value)
        assert seconds is None or 0 <= seconds < math.inf, value


@numbers_of_cases
def test_retry_after_of_seconds_and_dates_is_what_was_written(count, monkeypatch):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(time, "time", now.timestamp)
    for rng in draws("retry dates", count):
        seconds = rng.randrange(10**8)
        assert seconds_of(str(seconds)) == seconds
        then = now + timedelta(seconds=seconds)
        assert seconds_of(email.utils.format_datetime(then, usegmt=True)) == seconds


def raw_deflate(data):
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


ENCODERS = {
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:3]) + gzip.compress(data[3:]),
    "deflate": zlib.compress,
    "DEFLATE": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
}
OTHER_NAMES = ("identity", "utf-8", "", "none", "image/jpeg", "é")


def decode(rng, decoding, data):
    """The body, given to the decoder in pieces."""
    body, at = b"", 0
    while at < len(data):
        end = at + rng.randrange(1, 200)
        for piece in decoding.decode(data[at:end]):
            body += piece
        at = end
    return body


@numbers_of_cases
def test_bodies_of_any_codings_are_decoded_and_damage_is_a_failure(count):
    for rng in draws("codings", count):
        body = rng.randbytes(rng.randrange(1, 60)) * rng.randrange(1, 40)
        names = rng.sample([*ENCODERS, *OTHER_NAMES], rng.randrange(1, 4))
        data = body
        for name in names:
            data = ENCODERS.get(name, bytes)(data)
        header = rng.choice([", ", ",", " , "]).join(names)
        decoding = Decoding([header] if rng.random() < 0.5 else names, 10_000)
        assert decode(rng, decoding, data) == body and decoding.is_complete, names
        try:
            decoded = decode(rng, Decoding(names, 500), damage(rng, data))
        except Failure as failure:
            assert failure.status in ("http_invalid", "too_big")
            continue
        assert len(decoded) <= 100 * (500 + OVERHEAD_BYTES)


@numbers_of_cases
def test_any_content_encoding_is_known_or_refused(count):
    names = (*ENCODERS, *OTHER_NAMES, "compress", "exi", ",", " ", ";q=1")
    for rng in draws("content encoding", count):
        try:
            Decoding([phrase(rng, names, 8) for _ in range(rng.randrange(3))], 100)
        except Failure as failure:
            assert failure.status == "http_invalid"


@numbers_of_cases
def test_x_robots_tag_gives_a_directive_or_nothing(count):
    words = (
        "noindex",
        "noai",
        "none",
        "noimageai",
        "all",
        "unavailable_after: 25 Jun 2010",
        "max-snippet: 3",
    )
    directives = {"noai", "noimageai"}
    for rng in draws("x-robots-tag", count):
        anything = phrase(rng, (*words, "capfilt:", "otherbot:", "*:", ",", ":", " "), 12)
        assert find_optout([anything], directives, "capfilt") in {None, *directives}
        chosen = [rng.choice(words) for _ in range(rng.randrange(6))]
        expected = next((word for word in chosen if word in directives), None)
        header = rng.choice([",", ", ", " ,"]).join(chosen)
        assert find_optout([header.upper()], directives, "capfilt") == expected
        assert find_optout([f"otherbot: {header}"], directives, "capfilt") is None
        assert find_optout([f"otherbot: noai, CapFilt/1.0: {header}"], directives, "capfilt") == expected


@numbers_of_cases
def test_block_lists_hold_their_entries_or_are_one_line(count):
    file, memory = "memory://properties/list.txt", fsspec.filesystem("memory")
    tokens = (*URL_TOKENS, "\n", "#", "a.test", "0" * 64, "例え.テスト", "a..b", ".a", "a.")
    for rng in draws("block list", count):
        memory.pipe_file(file, phrase(rng, tokens).encode())
        try:
            read_block_list([file])
        except ArtifactError as error:
            assert "\n" not in str(error)
        hosts = [f"h{rng.randrange(99)}.test" for _ in range(rng.randrange(3))]
        urls = [f"http://u{rng.randrange(99)}.test/%2Fx?{rng.randrange(9)}" for _ in range(rng.randrange(3))]
        hashes = [rng.randbytes(32).hex() for _ in range(rng.randrange(3))]
        entries = [*hosts, *urls, *hashes, "# comment", ""]
        rng.shuffle(entries)
        memory.pipe_file(file, "\n".join(entries).encode())
        found = read_block_list([file])
        assert found.hosts == set(hosts) and found.hashes == set(hashes)
        for url in (*urls, *(f"https://sub.{host}/" for host in hosts)):
            assert found.find_reason(parse_http_url(url)), url
