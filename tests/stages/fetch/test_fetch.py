"""The fetch stage against a server that does what servers do: docs/statuses.md, row by row."""

import datetime
import hashlib
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.rows import ROW_SCHEMA, table_of
from capfilt.stages.status import STATUSES, Failure, http_status
from tests.stages.fetch.hostile import JPEG, Hostile, config, fetch_one, rows

pytestmark = pytest.mark.usefixtures("loopback_only")

SERVER = [  # what the server does, path, status, requests that it takes
    ("answers with a JPEG", "/ok.jpg", "success", 1),
    ("a url of any script", "/ünï cødé.jpg?a=b&c#d", "success", 0),  # the server sees it percent-encoded
    ("404", "/status/404", "http_404", 1),
    ("410", "/status/410", "http_404", 1),
    ("403", "/status/403", "http_403", 1),
    ("401", "/status/401", "http_403", 1),
    ("418", "/status/418", "http_4xx", 1),
    ("429 with a long Retry-After", "/status/429", "http_429", 1),  # an hour lies beyond the deadline
    ("503 with a long Retry-After", "/status/503", "http_5xx", 1),
    ("429 once", "/429", "success", 2),
    ("500 once", "/500", "success", 2),
    ("header never comes", "/slow-header", "timeout", 1),
    ("body trickles", "/trickle", "timeout", 1),
    ("body never ends", "/endless", "too_big", 1),
    ("10 GB announced", "/announced", "too_big", 1),
    ("gzip although not asked for", "/gzip", "success", 1),
    ("gzip bomb", "/gzip-bomb", "too_big", 1),
    ("gzip that is none", "/gzip-broken", "http_invalid", 1),
    ("gzip that ends early", "/gzip-cut", "http_invalid", 1),
    ("100 kB of headers", "/headers", "http_invalid", 1),
    ("another protocol than HTTP", "/not-http", "http_invalid", 1),
    ("body shorter than announced", "/short", "connect", 3),
    ("connection reset within the body", "/reset", "connect", 3),
    ("connection closed without an answer", "/closed", "connect", 6),  # aiohttp itself asks again
    ("redirect loop", "/loop1", "redirect", 1),
    ("5 redirects", "/chain/5", "success", 1),
    ("6 redirects", "/chain/6", "redirect", 1),
    ("redirect without a target", "/nowhere", "redirect", 1),
    ("304", "/304", "redirect", 1),
    ("robots.txt disallows", "/private/a.jpg", "robots", 0),
    ("HTML as image/jpeg", "/html", "not_image", 1),
    ("SVG", "/svg", "not_image", 1),
    ("empty body", "/empty", "empty_body", 1),
    ("truncated JPEG", "/cut.jpg", "decode", 1),
    ("truncated PNG", "/cut.png", "decode", 1),
    ("PNG of 50,000 x 50,000", "/png-bomb", "too_many_pixels", 1),
    ("tiny picture", "/small", "too_small", 1),
    ("banner", "/banner", "aspect", 1),
    ("CMYK JPEG", "/cmyk", "success", 1),
    ("16-bit PNG", "/16-bit", "success", 1),
    ("PNG with alpha", "/alpha", "success", 1),
    ("animated GIF", "/gif", "success", 1),
    ("animated WebP", "/webp", "success", 1),
    ("AVIF", "/avif", "success", 1),
    *((f"EXIF orientation {turn}", f"/exif/{turn}", "success", 1) for turn in range(1, 9)),
]


@pytest.mark.parametrize(
    ("path", "status", "requests"), [row[1:] for row in SERVER], ids=[r[0] for r in SERVER]
)
def test_behaviour(server: Hostile, path: str, status: str, requests: int) -> None:
    server.asked.clear()
    start = time.monotonic()
    row = fetch_one(server.url(path))
    assert row["status"] == status, row["error_message"]
    assert server.asked[path] == requests and server.asked["/robots.txt"] == 1
    assert time.monotonic() - start < 10  # the deadline is 1.5 s; a server that trickles could hold us 60 s
    if status == "success":
        assert len(row["phash"]) == 16
    if path in ("/ok.jpg", "/gzip", "/chain/5"):
        sides = ("width", "height", "original_width", "original_height")
        assert [row[side] for side in sides] == [64, 48, 64, 48]
        assert row["sha256"] == hashlib.sha256(JPEG).hexdigest()
    if path.startswith("/exif"):
        assert (row["width"], row["height"]) == ((64, 48) if path < "/exif/5" else (48, 64))


TAGS = [  # values of X-Robots-Tag headers, status
    ("noai", "optout"),
    ("NoImageAI", "optout"),
    ("noindex", "optout"),
    ("none", "optout"),
    ("nofollow, noai", "optout"),
    ("capfilt: noai", "optout"),
    ("CapFilt/2.0 : noindex", "optout"),
    ("all\nnoai", "optout"),
    ("otherbot: noindex, noai", "connect"),  # addressed to another; the body breaks off
    ("otherbot: noindex, *: noai", "optout"),
    ("unavailable_after: Saturday, 25 Jun 2033 15:00:00 PST, noai", "optout"),
    ("max-image-preview: none", "connect"),
    ("nofollow", "connect"),
]


@pytest.mark.parametrize(("tags", "status"), TAGS, ids=[tag for tag, _ in TAGS])
def test_x_robots_tag(server: Hostile, tags: str, status: str) -> None:
    """The body behind each tag breaks off, so that reading it would show."""
    path = f"/tag/{tags.encode().hex()}"
    row = fetch_one(server.url(path), retries=0)
    assert row["status"] == status, row["error_message"]
    assert fetch_one(server.url(path), retries=0, optout=())["status"] == "connect"


UNASKED = [  # what the url is, url, status
    ("loopback address", "http://127.0.0.1:{port}/ok.jpg", "private_address"),
    ("name that does not resolve", "http://nosuch.test/", "dns"),
    ("localhost", "http://localhost:{port}/", "dns"),  # not in the table of names
    ("RFC 1918 address", "http://10.0.0.1/a.jpg", "private_address"),
    ("metadata address", "http://169.254.169.254/latest/meta-data/", "private_address"),
    ("IPv6 loopback", "http://[::1]/", "private_address"),
    ("IPv4 mapped into IPv6", "http://[::ffff:10.0.0.1]/", "private_address"),
    ("IPv4 behind NAT64", "http://[64:ff9b::a00:1]/", "private_address"),
    ("unique local IPv6", "http://[fd00:ec2::254]/", "private_address"),
    ("link-local IPv6 with a zone", "http://[fe80::1%25eth0]/", "private_address"),
    ("address with a dot at the end", "http://127.0.0.1.:{port}/", "private_address"),
    ("IPv4 with two parts", "http://127.1/", "bad_url"),
    ("IPv4 as one number", "http://2130706433/", "bad_url"),
    ("IPv4 in hexadecimal", "http://0x7f.0.0.1/", "bad_url"),
    ("IPv4 in full-width digits", "http://１２７.0.0.1/", "private_address"),
    ("name of a private address", "http://printer.test/", "private_address"),
    ("the same, spelled otherwise", "http://PRINTER.test./", "private_address"),
    ("name of a public and a private address", "http://mixed.test/", "private_address"),
    ("impossible name", "http://a..b/", "bad_url"),
    ("data: url", "data:image/gif;base64,R0lGODlhAQABAAAAACw=", "bad_url"),
    ("file: url", "file:///etc/hostname", "bad_url"),
    ("ftp: url", "ftp://example.org/a.jpg", "bad_url"),
    ("javascript: url", "javascript:alert(1)", "bad_url"),
    ("no host", "http://", "bad_url"),
    ("impossible port", "http://good.test:99999/", "bad_url"),
    ("control characters", "http://good.test/\x00\n", "bad_url"),
    ("2 MB of text", "http://good.test/" + "a" * 2_000_000, "bad_url"),
    ("relative url without a base", "images/a.jpg", "bad_url"),
    ("empty url", "", "bad_url"),
    ("no url", None, "bad_url"),
]


@pytest.mark.parametrize(("url", "status"), [row[1:] for row in UNASKED], ids=[row[0] for row in UNASKED])
def test_no_request_is_sent(server: Hostile, url: str | None, status: str) -> None:
    server.asked.clear()
    row = fetch_one(url and url.replace("{port}", str(server.port)), allow_private=())
    assert row["status"] == status, row["error_message"]
    assert not server.asked


TARGETS = [  # where a redirect leads, status
    ("redirect to the metadata address", "http://169.254.169.254/latest", "private_address"),
    ("redirect to IPv4 mapped into IPv6", "http://[::ffff:10.0.0.1]/", "private_address"),
    ("redirect to a name of a private address", "//printer.test/status", "private_address"),
    ("redirect to loopback", "http://127.0.0.2:1/", "private_address"),
    ("redirect to a file: url", "file:///etc/passwd", "redirect"),
    ("redirect to a malformed url", "http://[broken", "redirect"),
    ("redirect to a name that does not resolve", "http://nosuch.test/", "dns"),
]


@pytest.mark.parametrize(("target", "status"), [row[1:] for row in TARGETS], ids=[row[0] for row in TARGETS])
def test_redirect_is_checked_like_a_first_url(server: Hostile, target: str, status: str) -> None:
    row = fetch_one(server.url(f"/to/{target.encode().hex()}"))
    assert row["status"] == status, row["error_message"]


CONNECTIONS = {
    "connection refused": "connect",
    "TLS port that speaks HTTP": "tls",
    "certificate nobody vouches for": "tls",
}


def test_the_documented_tables_are_the_tested_ones() -> None:
    text = (Path(__file__).parents[3] / "docs/statuses.md").read_text(encoding="utf-8")
    tables = [table_rows(part) for part in text.split("\n## ")[1:3]]
    statuses = [(f"`{s.name}`", "yes" if s.retryable else "no", s.meaning) for s in STATUSES.values()]
    assert [tuple(row) for row in tables[0]] == statuses
    tested = [(name, f"`{status}`") for name, _, status, *_ in [*SERVER, *UNASKED, *TARGETS]]
    tested += [
        (f"X-Robots-Tag: {name}".replace("\n", "; X-Robots-Tag: "), f"`{s}`")
        for name, s in TAGS
        if s == "optout"
    ]
    tested += [(name, f"`{status}`") for name, status in CONNECTIONS.items()]
    assert sorted(tuple(row[:2]) for row in tables[1]) == sorted(tested)
    assert {status.strip("`") for _, status, *_ in tables[1]} >= set(STATUSES) - {
        "internal",
        "crashed",
        "missing_file",
        "bad_tar",
        "blocked",
        "rate",
    }


def table_rows(text: str) -> list[list[str]]:
    """Cells of a Markdown table's rows, without its head."""
    lines = [line.strip().strip("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines[2:]]


def test_a_name_is_asked_at_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, server: Hostile
) -> None:
    asked = []

    def rebinding(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "10.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch_one(server.url("/ok.jpg", "good.test"))["status"] == "success"
    assert asked == ["good.test"]


def test_opened_names_work(server: Hostile) -> None:
    assert fetch_one(server.url("/ok.jpg", "GOOD.test"))["status"] == "success"


def test_retry_after_is_waited_for(server: Hostile) -> None:
    server.asked.clear()
    start = time.monotonic()
    assert fetch_one(server.url("/patience"), deadline_s=10)["status"] == "success"
    assert server.asked["/patience"] == 2 and time.monotonic() - start >= 1


def test_refused_connection(server: Hostile) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        row = fetch_one(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert row["status"] == CONNECTIONS["connection refused"]


def test_tls_that_is_none(server: Hostile) -> None:
    row = fetch_one(server.url("/ok.jpg").replace("http:", "https:"))
    assert row["status"] == CONNECTIONS["TLS port that speaks HTTP"]


def test_tls_that_nobody_vouches_for(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "good.test")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), 1, today, today + datetime.timedelta(days=1)
    )
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.sign(key, SHA256()).public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with Hostile(context) as secure:
        row = fetch_one(secure.url("/ok.jpg", "good.test").replace("http:", "https:"))
        assert row["status"] == CONNECTIONS["certificate nobody vouches for"]
        assert "self-signed" in row["error_message"]
        assert not secure.asked


def test_waiting_for_a_busy_host_is_not_the_urls_time(server: Hostile) -> None:
    """12 urls of 0.15 s, two at a time: the last waits 0.75 s, longer than its deadline."""
    server.most_at_once.clear()
    urls = [server.url(f"/leisurely/{i}") for i in range(12)]
    out = Fetch(config(deadline_s=0.6, per_host=2, retries=0))(rows(*urls))
    assert set(out["status"].to_pylist()) == {"success"}
    assert server.most_at_once["127.0.0.1"] == 2


def test_rows_are_never_lost_and_others_untouched(server: Hostile) -> None:
    urls = [server.url(path) for _, path, _, _ in SERVER if "slow" not in path and "trickle" not in path]
    batch = rows(*urls, None, "file:///x", server.url("/ok.jpg"))
    done = batch.slice(batch.num_rows - 1).to_pylist()[0] | {
        "status": "success",
        "sha256": "ab",
        "image": b"kept",
        "width": 9,
    }
    batch = pa.concat_tables([batch.slice(0, batch.num_rows - 1), table_of([done], ROW_SCHEMA)])
    out = Fetch(config(deadline_s=5))(batch)
    assert out.schema == ROW_SCHEMA
    for name in ("key", "source", "shard", "url", "caption", "texts", "truth"):
        assert out[name].equals(batch[name])
    assert "pending" not in out["status"].to_pylist()
    assert out.to_pylist()[-1] == done


def test_statuses() -> None:
    assert [http_status(code) for code in (401, 403, 404, 410, 408, 429, 500, 599, 600)] == [
        "http_403", "http_403", "http_404", "http_404", "http_4xx", "http_429", "http_5xx", "http_5xx", "http_invalid",
    ]  # fmt: skip
    retryable = {name for name, status in STATUSES.items() if status.retryable}
    assert retryable == {"dns", "connect", "timeout", "http_429", "http_5xx", "rate", "internal"}
    assert len(Failure("decode", "a\x00b\n" * 1000).message) <= 300
    with pytest.raises(AssertionError):
        Failure("made_up", "")
