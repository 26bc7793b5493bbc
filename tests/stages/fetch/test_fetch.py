"""The fetch stage against a hostile server: the tables of docs/statuses.md, row by row."""

import ast
import datetime
import hashlib
import re
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
from capfilt.stages.status import STATUSES
from tests.stages.fetch.hostile_server import JPEG, HostileServer, fetch_config, fetch_one, make_batch

pytestmark = pytest.mark.usefixtures("loopback_only")

ROOT = Path(__file__).parents[3]

RESPONSES = [  # behavior of the server, path, status, number of requests
    ("JPEG", "/ok.jpg", "success", 1),
    ("non-ASCII url", "/ünï cødé.jpg?a=b&c#d", "success", 0),  # percent-encoded at the server
    ("404", "/status/404", "http_404", 1),
    ("410", "/status/410", "http_404", 1),
    ("403", "/status/403", "http_403", 1),
    ("401", "/status/401", "http_403", 1),
    ("418", "/status/418", "http_4xx", 1),
    ("429 with a long Retry-After", "/status/429", "http_429", 1),  # an hour, longer than the deadline
    ("503 with a long Retry-After", "/status/503", "http_5xx", 1),
    ("429 once", "/429", "success", 2),
    ("500 once", "/500", "success", 2),
    ("header never sent", "/late-header", "timeout", 1),
    ("body trickles", "/trickle", "timeout", 1),
    ("endless body", "/endless", "too_big", 1),
    ("Content-Length of 10 GB", "/announced", "too_big", 1),
    ("gzip although not accepted", "/gzip", "success", 1),
    ("gzip bomb", "/gzip-bomb", "too_big", 1),
    ("corrupt gzip", "/gzip-broken", "http_invalid", 1),
    ("truncated gzip", "/gzip-cut", "http_invalid", 1),
    ("100 kB of headers", "/headers", "http_invalid", 1),
    ("not HTTP", "/not-http", "http_invalid", 1),
    ("body shorter than Content-Length", "/short", "connect", 3),
    ("connection reset in the body", "/reset", "connect", 3),
    ("connection closed without a response", "/closed", "connect", 6),  # aiohttp repeats each
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
    ("tiny image", "/small", "too_small", 1),
    ("banner", "/banner", "aspect", 1),
    ("CMYK JPEG", "/cmyk", "success", 1),
    ("16-bit PNG", "/16-bit", "success", 1),
    ("PNG with alpha", "/alpha", "success", 1),
    ("animated GIF", "/gif", "success", 1),
    ("animated WebP", "/webp", "success", 1),
    ("AVIF", "/avif", "success", 1),
    *((f"EXIF orientation {n}", f"/exif/{n}", "success", 1) for n in range(1, 9)),
]


@pytest.mark.parametrize(
    ("path", "status", "requests"), [row[1:] for row in RESPONSES], ids=[row[0] for row in RESPONSES]
)
def test_response(server: HostileServer, path: str, status: str, requests: int) -> None:
    server.requests.clear()
    row = fetch_one(server.url(path))
    assert row["status"] == status, row["error_message"]
    assert server.requests[path] == requests and server.requests["/robots.txt"] == 1
    if status == "success":
        assert len(row["phash"]) == 16
    if path in ("/ok.jpg", "/gzip", "/chain/5"):
        sides = ("width", "height", "original_width", "original_height")
        assert [row[side] for side in sides] == [64, 48, 64, 48]
        assert row["sha256"] == hashlib.sha256(JPEG).hexdigest()
    if path.startswith("/exif"):
        assert (row["width"], row["height"]) == ((64, 48) if path < "/exif/5" else (48, 64))


TAGS = [  # X-Robots-Tag headers, status
    ("noai", "optout"),
    ("NoImageAI", "optout"),
    ("noindex", "optout"),
    ("none", "optout"),
    ("nofollow, noai", "optout"),
    ("capfilt: noai", "optout"),
    ("CapFilt/2.0 : noindex", "optout"),
    ("all\nnoai", "optout"),
    ("otherbot: noindex, noai", "connect"),  # for another crawler; the body is truncated
    ("otherbot: noindex, *: noai", "optout"),
    ("unavailable_after: Saturday, 25 Jun 2033 15:00:00 PST, noai", "optout"),
    ("max-image-preview: none", "connect"),
    ("nofollow", "connect"),
]


@pytest.mark.parametrize(("tags", "status"), TAGS, ids=[tag for tag, _ in TAGS])
def test_x_robots_tag(server: HostileServer, tags: str, status: str) -> None:
    """The body after each tag is truncated, so that reading it would end as `connect`."""
    path = f"/tag/{tags.encode().hex()}"
    row = fetch_one(server.url(path), retries=0)
    assert row["status"] == status, row["error_message"]
    assert fetch_one(server.url(path), retries=0, optout=())["status"] == "connect"


REJECTED_URLS = [  # kind of url, url, status
    ("loopback address", "http://127.0.0.1:{port}/ok.jpg", "private_address"),
    ("host name that does not resolve", "http://nosuch.test/", "dns"),
    ("localhost", "http://localhost:{port}/", "private_address"),
    ("RFC 1918 address", "http://10.0.0.1/a.jpg", "private_address"),
    ("metadata address", "http://169.254.169.254/latest/meta-data/", "private_address"),
    ("IPv6 loopback", "http://[::1]/", "private_address"),
    ("IPv4-mapped IPv6 address", "http://[::ffff:10.0.0.1]/", "private_address"),
    ("NAT64 address of a private IPv4", "http://[64:ff9b::a00:1]/", "private_address"),
    ("unique local IPv6", "http://[fd00:ec2::254]/", "private_address"),
    ("link-local IPv6", "http://[fe80::1]/", "private_address"),
    ("IPv6 with a zone", "http://[fe80::1%25eth0]/", "bad_url"),
    ("address with a trailing dot", "http://127.0.0.1.:{port}/", "private_address"),
    ("IPv4 with two parts", "http://127.1/", "private_address"),
    ("IPv4 as one integer", "http://2130706433/", "private_address"),
    ("IPv4 in hexadecimal", "http://0x7f.0.0.1/", "private_address"),
    ("IPv4 in full-width digits", "http://１２７.0.0.1/", "private_address"),
    ("host name with a private address", "http://printer.test/", "private_address"),
    ("the same name in another spelling", "http://PRINTER.test./", "private_address"),
    ("host name with a public and a private address", "http://mixed.test/", "private_address"),
    ("invalid host name", "http://a..b/", "bad_url"),
    ("data: url", "data:image/gif;base64,R0lGODlhAQABAAAAACw=", "bad_url"),
    ("file: url", "file:///etc/hostname", "bad_url"),
    ("ftp: url", "ftp://example.org/a.jpg", "bad_url"),
    ("javascript: url", "javascript:alert(1)", "bad_url"),
    ("no host", "http://", "bad_url"),
    ("port of another service", "http://nosuch.test:6379/", "bad_url"),
    ("invalid port", "http://good.test:99999/", "bad_url"),
    ("control characters", "http://good.test/\x00\n", "bad_url"),
    ("url of 2 MB", "http://good.test/" + "a" * 2_000_000, "bad_url"),
    ("relative url without a base", "images/a.jpg", "bad_url"),
    ("empty url", "", "bad_url"),
    ("no url", None, "bad_url"),
]


@pytest.mark.parametrize(
    ("url", "status"), [row[1:] for row in REJECTED_URLS], ids=[row[0] for row in REJECTED_URLS]
)
def test_rejected_without_a_request(server: HostileServer, url: str | None, status: str) -> None:
    server.requests.clear()
    row = fetch_one(url and url.replace("{port}", str(server.port)), allow_private=())
    assert row["status"] == status, row["error_message"]
    assert not server.requests


REDIRECT_TARGETS = [  # behavior of the server, target, status
    ("redirect to the metadata address", "http://169.254.169.254/latest", "private_address"),
    ("redirect to an IPv4-mapped IPv6 address", "http://[::ffff:10.0.0.1]/", "private_address"),
    ("redirect to a host name with a private address", "//printer.test/status", "private_address"),
    ("redirect to loopback", "http://127.0.0.2:1/", "private_address"),
    ("redirect to a file: url", "file:///etc/passwd", "redirect"),
    ("redirect to a malformed url", "http://[broken", "redirect"),
    ("redirect to a host name that does not resolve", "http://nosuch.test/", "dns"),
]


@pytest.mark.parametrize(
    ("target", "status"), [row[1:] for row in REDIRECT_TARGETS], ids=[row[0] for row in REDIRECT_TARGETS]
)
def test_redirect_target_is_checked_like_a_url(server: HostileServer, target: str, status: str) -> None:
    row = fetch_one(server.url(f"/to/{target.encode().hex()}"))
    assert row["status"] == status, row["error_message"]


CONNECTIONS = {
    "connection refused": "connect",
    "plain HTTP on a TLS port": "tls",
    "self-signed certificate": "tls",
}


def test_documented_tables_match_the_code_and_the_tests() -> None:
    text = (ROOT / "docs/statuses.md").read_text(encoding="utf-8")
    tables = [parse_table(part) for part in text.split("\n## ")[1:3]]
    statuses = [(f"`{s.name}`", "yes" if s.retryable else "no", s.meaning) for s in STATUSES.values()]
    assert [tuple(row) for row in tables[0]] == statuses
    tested = [
        (name, f"`{status}`") for name, _, status, *_ in [*RESPONSES, *REJECTED_URLS, *REDIRECT_TARGETS]
    ]
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
        "hash_mismatch",
    }


def test_documented_error_messages_exist_in_the_code() -> None:
    text = (ROOT / "docs/statuses.md").read_text(encoding="utf-8")
    table = parse_table(text.split("\n## ")[3])
    assert {name for cell, _ in table for name in re.findall(r"`(\w+)`", cell)} <= set(STATUSES)
    documented = {
        re.sub(r"<[^<>]*>", "<>", message) for _, cell in table for message in re.findall("`(.*?)`", cell)
    }
    in_code = {
        "".join(part.value if isinstance(part, ast.Constant) else "<>" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else node.value
        for path in sorted((ROOT / "stages/fetch").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }
    assert len(documented) > 15 and documented <= in_code, documented - in_code


def parse_table(text: str) -> list[list[str]]:
    """Cells of a Markdown table, row by row, without its header."""
    lines = [line.strip().strip("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines[2:]]


def test_connection_uses_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, server: HostileServer
) -> None:
    lookups = []

    def rebinding(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        lookups.append(host)
        address = "127.0.0.1" if len(lookups) == 1 else "10.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch_one(server.url("/ok.jpg", "good.test"))["status"] == "success"
    assert lookups == ["good.test"]


def test_allowed_private_host(server: HostileServer) -> None:
    assert fetch_one(server.url("/ok.jpg", "GOOD.test"))["status"] == "success"


def test_retry_waits_for_retry_after(server: HostileServer) -> None:
    server.requests.clear()
    start = time.monotonic()
    assert fetch_one(server.url("/retry-after"), deadline_s=10)["status"] == "success"
    assert server.requests["/retry-after"] == 2 and time.monotonic() - start >= 1


def test_refused_connection(server: HostileServer) -> None:
    with socket.socket() as taken:  # bound, not listening: no other process gets the port
        taken.bind(("127.0.0.1", 0))
        row = fetch_one(f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert row["status"] == CONNECTIONS["connection refused"]


def test_plain_http_on_a_tls_port(server: HostileServer) -> None:
    row = fetch_one(server.url("/ok.jpg").replace("http:", "https:"))
    assert row["status"] == CONNECTIONS["plain HTTP on a TLS port"]


def test_self_signed_certificate(tmp_path: Path) -> None:
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
    with HostileServer(context) as secure:
        row = fetch_one(secure.url("/ok.jpg", "good.test").replace("http:", "https:"))
        assert row["status"] == CONNECTIONS["self-signed certificate"]
        assert "self-signed" in row["error_message"]
        assert not secure.requests


def test_waiting_for_a_busy_host_does_not_count_against_the_deadline(server: HostileServer) -> None:
    """12 urls of 0.15 s, two at a time: the last one waits 0.75 s, longer than its deadline."""
    server.max_concurrent.clear()
    urls = [server.url(f"/delayed/{i}") for i in range(12)]
    out = Fetch(fetch_config(deadline_s=0.6, per_host=2, retries=0))(make_batch(*urls))
    assert set(out["status"].to_pylist()) == {"success"}
    assert server.max_concurrent["127.0.0.1"] == 2


def test_every_row_is_returned_and_finished_rows_are_unchanged(server: HostileServer) -> None:
    urls = [server.url(path) for _, path, _, _ in RESPONSES if "late" not in path and "trickle" not in path]
    batch = make_batch(*urls, None, "file:///x", server.url("/ok.jpg"))
    done = batch.slice(batch.num_rows - 1).to_pylist()[0] | {
        "status": "success",
        "sha256": "ab",
        "image": b"kept",
        "width": 9,
    }
    batch = pa.concat_tables([batch.slice(0, batch.num_rows - 1), table_of([done], ROW_SCHEMA)])
    out = Fetch(fetch_config(deadline_s=5))(batch)
    assert out.schema == ROW_SCHEMA.append(pa.field("received", pa.int64()))
    for name in ("key", "source", "shard", "url", "caption", "texts", "truth"):
        assert out[name].equals(batch[name])
    assert "pending" not in out["status"].to_pylist()
    assert out.to_pylist()[-1] == done | {"received": None}
