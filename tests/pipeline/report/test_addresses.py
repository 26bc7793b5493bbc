"""Addresses as the page shows them, and their hosts in SQL."""

import duckdb
import pytest

from capfilt.pipeline.report.formats.addresses import HOST, MAX_LINK_LENGTH, ShownAddress, show_address

HOSTS = [
    ("http://one.example/1?a#b", "one.example"),
    ("HTTPS://TWO.example:8080", "two.example"),
    ("http://user:secret@two.example/", "two.example"),
    ("http://user:p@ss@two.example/", "two.example"),
    ("http://evil.example\\@good.example/", "evil.example"),
    ("http://evil.example?@good.example/", "evil.example"),
    ("http://evil.example#@good.example/", "evil.example"),
    (" \u200bhttp://one.example/", "one.example"),
    ("https://[::1]:80/5", "[::1]"),
    ("http://bücher.example/", "bücher.example"),
    ("images/1.png", ""),
    ("s3://bucket/a.tar#1", ""),
    ("see http://one.example", ""),
    ("javascript://one.example/%0aalert(1)", ""),
]


@pytest.mark.parametrize(("url", "host"), HOSTS)
def test_host_of_an_address(url: str, host: str) -> None:
    shown = show_address(url)
    assert shown is not None and shown.host == host
    query = "SELECT lower(regexp_extract($url, $host, 1))"
    assert duckdb.execute(query, {"url": url, "host": HOST}).fetchall() == [(host,)]


@pytest.mark.parametrize(
    "url",
    ["http://one.example/1", "https://one.example/a%20b?x=1&y=<2>#z", "http://bücher.example/ü"],
)
def test_web_address_is_a_link(url: str) -> None:
    shown = show_address(url)
    assert shown is not None and shown.is_link and shown.text == url


@pytest.mark.parametrize(
    "url",
    [
        "images/1.png",
        "javascript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "http:one.example",
        "http://one.example/a b",
        "http://one.example/\u202egnp",
        "http://one.example/\x00",
        "http://one.example/" + "x" * MAX_LINK_LENGTH,
    ],
)
def test_other_address_is_shown_as_text(url: str) -> None:
    shown = show_address(url)
    assert shown is not None and not shown.is_link and shown.text == url


def test_longest_link() -> None:
    prefix = "http://one.example/"
    assert show_address(prefix + "x" * (MAX_LINK_LENGTH - len(prefix))).is_link  # type: ignore[union-attr]
    assert not show_address(prefix + "x" * (MAX_LINK_LENGTH + 1 - len(prefix))).is_link  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("url", "text", "host"),
    [
        ("http://user:secret@TWO.example:8080/4?q", "http://two.example/…", "two.example"),
        ("https://one.example/1?X-Amz-Signature=0a1b2c", "https://one.example/…", "one.example"),
        ("s3://key:secret@bucket/1", "s3://…", ""),
    ],
)
def test_credential_is_not_shown(url: str, text: str, host: str) -> None:
    assert show_address(url) == ShownAddress(text, host, is_link=False)


@pytest.mark.parametrize("url", [None, "", " \u200b "])
def test_row_without_an_address(url: str | None) -> None:
    assert show_address(url) is None
