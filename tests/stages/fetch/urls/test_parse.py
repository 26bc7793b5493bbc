"""Urls as browsers read them: the request target, the host, and what is refused."""

import re

import pytest
from yarl import URL

from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.fetch.urls.parse import MAX_URL_CHARS, parse_http_url, parse_location, strip_invisible
from capfilt.stages.status import Failure
from tests.stages.fetch.hostile_server import HostileServer, fetch_config, make_batch


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("http://a.test", "http://a.test/"),
        ("HTTPS://A.test:1/x#part", "https://a.test:1/x"),
        ("http://a.test:65535/", "http://a.test:65535/"),
        ("http://a.test:080/", "http://a.test/"),
        ("http://bücher.test/", "http://xn--bcher-kva.test/"),
        ("http://a_b.test/", "http://a_b.test/"),
        ("http:/a.test/x", "http://a.test/x"),
        ("http://a.test\\x\\y", "http://a.test/x/y"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://u:p%40w@a.test/", "http://u:p%40w@a.test/"),
    ],
)
def test_http_urls(url: str, parsed: str) -> None:
    assert str(parse_http_url(url)) == parsed


TARGETS = [  # as written, what a browser sends
    ("/a%2Cb%28c%29.jpg", "/a%2Cb%28c%29.jpg"),
    ("/x?sig=a%2Fb%3D&e=%7E", "/x?sig=a%2Fb%3D&e=%7E"),
    ("/https%3A%2F%2Fexample.org%2Fp.jpg", "/https%3A%2F%2Fexample.org%2Fp.jpg"),
    ("/%7Euser/%E9t%e9.jpg", "/%7Euser/%E9t%e9.jpg"),
    ("/sp ace.jpg?q=a b", "/sp%20ace.jpg?q=a%20b"),
    ("/ü名.jpg", "/%C3%BC%E5%90%8D.jpg"),
    ("/100%.jpg", "/100%.jpg"),
    ("/50%zz.jpg", "/50%zz.jpg"),
    ("/a//b/../c.jpg", "/a//c.jpg"),
    ("/plus+x.jpg?q=a+b", "/plus+x.jpg?q=a+b"),
    ("/semi;v=1.jpg?a;b", "/semi;v=1.jpg?a;b"),
    ("/[br]{c}|p.jpg?[x]", "/[br]%7Bc%7D|p.jpg?[x]"),
    ("/q?\"x\"'y'", "/q?%22x%22%27y%27"),
    ("/%00nul", "/%00nul"),
    ("/x?", "/x?"),
    ("/x?#part", "/x?"),
    ("/x%3F?", "/x%3F?"),
    ("?", "/?"),
    ("?x=1", "/?x=1"),
    ("/e%2525.jpg", "/e%2525.jpg"),
    ("/dot%2E%2Ehidden", "/dot%2E%2Ehidden"),
    ("/a/%2e%2E/b", "/b"),
    ("/a?b=1&amp;c", "/a?b=1&amp;c"),
]


@pytest.mark.parametrize(("written", "target"), TARGETS)
def test_request_target_is_sent_as_written(written: str, target: str) -> None:
    assert parse_http_url(f"http://a.test{written}").raw_path_qs == target
    assert parse_location(written, URL("http://a.test/")).raw_path_qs == target


class Echo(HostileServer):
    """Redirects from /from/<hex of the Location> and sends an image for every other path."""

    def respond(self, path: str, count: int, host: str) -> bytes:
        if path.startswith("/from/"):
            return (
                b"HTTP/1.1 302 X\r\nLocation: " + bytes.fromhex(path[6:]) + b"\r\nContent-Length: 0\r\n\r\n"
            )
        return super().respond(path, count, host) if path == "/robots.txt" else IMAGE


IMAGE = HostileServer().respond("/ok.jpg", 1, "")


@pytest.mark.usefixtures("loopback_only")
def test_request_line_and_redirects_keep_the_spelling() -> None:
    with Echo() as server:
        targets = {written: target for written, target in TARGETS if written[0] == "/"}
        direct = [server.url(written) for written in targets]
        redirected = [server.url(f"/from/{written.encode().hex()}") for written in targets]
        out = Fetch(fetch_config(deadline_s=10))(make_batch(*direct, *redirected))
        assert set(out["status"].to_pylist()) == {"success"}, out["error_message"].to_pylist()
        requested = {path for path in server.requests if not re.match("/from|/robots", path)}
        assert requested == set(targets.values())


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/ok?n=caf\udce9", "/ok?n=caf%E9"),  # Latin-1
        ("/ok?n=café", "/ok?n=caf%C3%A9"),
        ("  /ok?a b  ", "/ok?a%20b"),
        ("\\ok", "/ok"),
        ("../../ok#part", "/ok"),
        ("?x", "/dir/x?x"),
        ("//a.test/ok", "/ok"),
    ],
)
def test_locations(location: str, target: str) -> None:
    assert parse_location(location, URL("http://a.test/dir/x")).raw_path_qs == target


@pytest.mark.parametrize(
    "url",
    [
        *("", "a.test/x", "ftp://a.test/", "javascript:alert(1)", "NULL"),
        *("http://", "http://a:0/", "http://a:65536/", "http://a b/", "https:///x", "http:\\\\\\a"),
        *("http://[::ffff/x", "http://[fe80::1%25eth0]/", "http://256.0.0.1/", "http://a.test／x"),
        "http://a/\udce9",
    ],
)
def test_other_urls(url: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_http_url(url)
    assert caught.value.status == "bad_url"


def test_another_scheme_is_named() -> None:
    with pytest.raises(Failure, match=r"its scheme is s3$"):
        parse_http_url("s3://bucket/key.jpg")


def test_length_is_limited() -> None:
    longest = "http://a.test/" + "a" * (MAX_URL_CHARS - 14)
    assert len(parse_http_url(longest).raw_path) == MAX_URL_CHARS - 13
    with pytest.raises(Failure, match="the url has 8001 characters, the limit is 8000"):
        parse_http_url(longest + "a")


@pytest.mark.parametrize("text", ["\ufeffx", "\u200bx\u200d", " \u200b \ufeff x\u2060 \n", "x"])
def test_invisible_characters_at_the_ends_are_dropped(text: str) -> None:
    assert strip_invisible(text) == "x"
    assert strip_invisible("a\u200bb") == "a\u200bb"
