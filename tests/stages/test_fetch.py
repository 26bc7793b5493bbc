"""The fetch stage against a server that does what servers do, on loopback.

The socket layer opens 127.0.0.1 and nothing else, and names resolve from a table: a guard that fails shows as a
failed test, never as a packet that leaves the machine.
"""

import asyncio
import datetime
import gzip
import hashlib
import io
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from PIL import Image

from stages.addresses import is_public
from stages.decode import DecodeConfig
from stages.fetch import Fetch, FetchConfig
from stages.rows import ROW_SCHEMA, row_key, table_of
from stages.status import STATUSES, Failure, http_status

NAMES = {
    "good.test": ["127.0.0.1"],  # opened by allow_private, as an intranet host would be
    "printer.test": ["192.168.1.7"],
    "mixed.test": ["93.184.215.14", "10.0.0.1"],
    "turns.test": ["93.184.215.14"],  # and something else the second time
}


def picture(form: str = "JPEG", size: tuple[int, int] = (64, 48), **options: object) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", size, (200, 40, 60)).save(sink, form, **options)
    return sink.getvalue()


JPEG = picture()
PNG_BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + struct.pack(">I4s", 13, b"IHDR")
    + (body := struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    + struct.pack(">I4s", 0, b"IDAT")
    + b"\0\0\0\0"
)


def answer(body: bytes = b"", status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        "Connection: close",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Hostile:
    """A server whose answers are bytes, or coroutines that write what they like; counts what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self.at_once = self.most_at_once = 0
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Hostile":
        started = threading.Event()

        async def start() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]
            started.set()

        self._thread.start()
        asyncio.run_coroutine_threadsafe(start(), self.loop)
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            first = await reader.readexactly(1)
            if not first.isalpha():  # a TLS greeting
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            request = (first + await reader.readuntil(b"\r\n\r\n")).decode()
            path = request.split()[1]
            self.asked[path] += 1
            fields = (line.partition(": ") for line in request.split("\r\n")[1:])
            self.headers = {name.lower(): value for name, _, value in fields}
            reply = self.reply(path, self.asked[path])
            async for part in reply if not isinstance(reply, bytes) else _once(reply):
                writer.write(part)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _leisurely(self) -> AsyncIterator[bytes]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.15)
        self.at_once -= 1
        yield answer(JPEG)

    def reply(self, path: str, times: int) -> bytes | AsyncIterator[bytes]:
        flaky = {"/429": ("429 Too Many", "0"), "/500": ("500 Oh", "0"), "/patience": ("429 Too Many", "1")}
        if path in flaky and times == 1:
            status, wait = flaky[path]
            return answer(status=status, Retry_After=wait)
        if path.startswith("/status/"):
            return answer(status=f"{path[8:11]} So", Retry_After="3600")
        if path.startswith("/loop"):
            return answer(status="302 Found", Location="/loop2" if path == "/loop1" else "/loop1")
        if path.startswith("/chain/"):
            step = int(path[7:])
            return answer(JPEG) if step == 0 else answer(status="301 Moved", Location=f"{step - 1}")
        if path.startswith("/leisurely/"):
            return self._leisurely()
        if path.startswith("/to/"):
            return answer(status="302 Found", Location=bytes.fromhex(path[4:]).decode())
        return FIXED[path] if path in FIXED else LIVE[path]() if path in LIVE else answer(JPEG)


FIXED: dict[str, bytes] = {
    "/html": answer(b"<!DOCTYPE html><h1>Not here</h1>", Content_Type="image/jpeg"),
    "/empty": answer(b""),
    "/cut": answer(picture(size=(300, 200))[:900]),
    "/short": answer(JPEG[:200], length=len(JPEG)),
    "/png-bomb": answer(PNG_BOMB),
    "/gzip": answer(gzip.compress(JPEG), Content_Encoding="gzip"),
    "/gzip-bomb": answer(gzip.compress(bytes(30_000_000)), Content_Encoding="gzip"),
    "/gzip-broken": answer(b"\x1f\x8b no", Content_Encoding="gzip"),
    "/announced": answer(b"", length=10**10),
    "/headers": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "/not-http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "/nowhere": answer(status="302 Found"),
    "/304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "/small": answer(picture(size=(15, 99))),
    "/reset": b"",
}


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _slow_header() -> AsyncIterator[bytes]:
    await asyncio.sleep(30)
    yield answer(JPEG)


async def _trickle() -> AsyncIterator[bytes]:
    yield answer(b"", length=len(JPEG))
    for byte in JPEG:
        yield bytes([byte])
        await asyncio.sleep(0.1)


async def _endless() -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        yield b"10000\r\n" + bytes(0x10000) + b"\r\n"


LIVE: dict[str, Callable[[], AsyncIterator[bytes]]] = {
    "/slow-header": _slow_header,
    "/trickle": _trickle,
    "/endless": _endless,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with Hostile() as hostile:
        yield hostile


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Connections to other addresses fail, are listed, and fail the test."""
    strays: list[Any] = []
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "127.0.0.1":
            strays.append(address)
            raise PermissionError(f"the test refuses {address}")
        connect(self, address)

    def lookup(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        name = host.encode("idna").decode().lower().rstrip(".")  # as the real one: UnicodeError for "a..b"
        if name not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in NAMES[name]]

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    yield strays
    assert strays == []


def config(**changes: Any) -> FetchConfig:
    usual: dict[str, Any] = {
        "deadline_s": 1.5,
        "connect_timeout_s": 1.0,
        "max_bytes": 1_000_000,
        "backoff_s": 0.02,
        "allow_private": ("127.0.0.1", "good.test"),
        "image": DecodeConfig(min_side=16),
    }
    return FetchConfig(**(usual | changes))


def rows(*urls: str | None, **more: Any) -> pa.Table:
    made = [
        {
            "key": row_key(0, i),
            "source": "s",
            "shard": 0,
            "url": url,
            "status": "pending",
            "caption": f"text {i}",
            **more,
        }
        for i, url in enumerate(urls)
    ]
    return table_of(made, ROW_SCHEMA)


def fetch_one(url: str | None, **changes: Any) -> dict[str, Any]:
    (row,) = Fetch(config(**changes))(rows(url)).to_pylist()
    assert row["status"] in STATUSES
    assert (row["status"] == "success") == (row["image"] is not None) == (row["error_message"] is None)
    return row


BEHAVIOURS = [  # path, status, requests that it takes
    ("/ok.jpg", "success", 1),
    ("/ünï cødé.jpg?a=b&c#d", "success", 0),  # the server sees it percent-encoded
    ("/status/404", "http_404", 1),
    ("/status/410", "http_404", 1),
    ("/status/403", "http_403", 1),
    ("/status/401", "http_403", 1),
    ("/status/418", "http_4xx", 1),
    ("/status/429", "http_429", 1),  # Retry-After: 3600 lies beyond the deadline
    ("/status/503", "http_5xx", 1),
    ("/429", "success", 2),
    ("/500", "success", 2),
    ("/slow-header", "timeout", 1),
    ("/trickle", "timeout", 1),
    ("/endless", "too_big", 1),
    ("/announced", "too_big", 1),
    ("/gzip", "success", 1),
    ("/gzip-bomb", "too_big", 1),
    ("/gzip-broken", "http_invalid", 1),
    ("/headers", "http_invalid", 1),
    ("/not-http", "http_invalid", 1),
    ("/loop1", "redirect", 1),
    ("/chain/5", "success", 1),
    ("/chain/6", "redirect", 1),
    ("/nowhere", "redirect", 1),
    ("/304", "redirect", 1),
    ("/html", "not_image", 1),
    ("/empty", "empty_body", 1),
    ("/cut", "decode", 1),
    ("/short", "connect", 3),
    ("/reset", "connect", 6),  # aiohttp itself asks again when a connection ends without an answer
    ("/png-bomb", "too_many_pixels", 1),
    ("/small", "too_small", 1),
]


@pytest.mark.parametrize(("path", "status", "requests"), BEHAVIOURS, ids=[b[0] for b in BEHAVIOURS])
def test_behaviour(server: Hostile, path: str, status: str, requests: int) -> None:
    server.asked.clear()
    start = time.monotonic()
    row = fetch_one(server.url(path))
    assert row["status"] == status, row["error_message"]
    assert server.asked[path] == requests
    assert time.monotonic() - start < 10  # the deadline is 1.5 s; a server that trickles could hold us 60 s
    if status == "success":
        assert (row["width"], row["height"], row["original_width"], row["original_height"]) == (
            64,
            48,
            64,
            48,
        )
        assert row["sha256"] == hashlib.sha256(JPEG).hexdigest()
        assert len(row["phash"]) == 16


FORBIDDEN = [
    ("http://127.0.0.1:{port}/ok.jpg", "private_address"),
    ("http://localhost:{port}/", "dns"),  # not in the table of names
    ("http://10.0.0.1/a.jpg", "private_address"),
    ("http://169.254.169.254/latest/meta-data/", "private_address"),
    ("http://[::1]/", "private_address"),
    ("http://[::ffff:10.0.0.1]/", "private_address"),
    ("http://[64:ff9b::a00:1]/", "private_address"),
    ("http://[fd00:ec2::254]/", "private_address"),
    ("http://[fe80::1%25eth0]/", "private_address"),
    ("http://127.0.0.1.:{port}/", "private_address"),
    ("http://127.1/", "bad_url"),
    ("http://2130706433/", "bad_url"),
    ("http://0x7f.0.0.1/", "bad_url"),
    ("http://１２７.0.0.1/", "private_address"),
    ("http://printer.test/", "private_address"),
    ("http://PRINTER.test./", "private_address"),
    ("http://mixed.test/", "private_address"),
    ("http://nosuch.test/", "dns"),
    ("http://a..b/", "bad_url"),
    ("data:image/gif;base64,R0lGODlhAQABAAAAACw=", "bad_url"),
    ("file:///etc/hostname", "bad_url"),
    ("ftp://example.org/a.jpg", "bad_url"),
    ("javascript:alert(1)", "bad_url"),
    ("http://", "bad_url"),
    ("http://good.test:99999/", "bad_url"),
    ("http://good.test/\x00\n", "bad_url"),
    ("http://good.test/" + "a" * 2_000_000, "bad_url"),
    ("images/a.jpg", "bad_url"),
    ("", "bad_url"),
    (None, "bad_url"),
]


@pytest.mark.parametrize(("url", "status"), FORBIDDEN, ids=[str(u)[:40] for u, _ in FORBIDDEN])
def test_no_request_is_sent(server: Hostile, url: str | None, status: str) -> None:
    server.asked.clear()
    row = fetch_one(url and url.replace("{port}", str(server.port)), allow_private=())
    assert row["status"] == status, row["error_message"]
    assert not server.asked


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://169.254.169.254/latest", "private_address"),
        ("http://[::ffff:10.0.0.1]/", "private_address"),
        ("//printer.test/status", "private_address"),
        ("http://127.0.0.2:1/", "private_address"),
        ("file:///etc/passwd", "redirect"),
        ("http://[broken", "redirect"),
        ("http://nosuch.test/", "dns"),
    ],
)
def test_redirect_is_checked_like_a_first_url(server: Hostile, target: str, status: str) -> None:
    row = fetch_one(server.url(f"/to/{target.encode().hex()}"))
    assert row["status"] == status, row["error_message"]


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
        assert fetch_one(f"http://127.0.0.1:{taken.getsockname()[1]}/")["status"] == "connect"


def test_tls_that_is_none(server: Hostile) -> None:
    assert fetch_one(server.url("/ok.jpg").replace("http:", "https:"))["status"] == "tls"


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
        assert row["status"] == "tls" and "self-signed" in row["error_message"]
        assert not secure.asked


def test_who_asks(server: Hostile) -> None:
    fetch_one(server.url("/ok.jpg"), contact="https://example.org/crawler")
    assert server.headers["user-agent"] == "capfilt/0.1 (+https://example.org/crawler)"
    assert "cookie" not in server.headers
    with pytest.raises(ValueError, match="printable ASCII"):
        config(contact="a\r\nX-Evil: 1")


def test_waiting_for_a_busy_host_is_not_the_urls_time(server: Hostile) -> None:
    """12 urls of 0.15 s, two at a time: the last waits 0.75 s, longer than its deadline."""
    server.most_at_once = 0
    urls = [server.url(f"/leisurely/{i}") for i in range(12)]
    out = Fetch(config(deadline_s=0.6, per_host=2, retries=0))(rows(*urls))
    assert set(out["status"].to_pylist()) == {"success"}
    assert server.most_at_once <= 2


def test_rows_are_never_lost_and_others_untouched(server: Hostile) -> None:
    urls = [server.url(path) for path, _, _ in BEHAVIOURS if "slow" not in path and "trickle" not in path]
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


def test_same_bytes_whatever_the_order_and_the_concurrency(server: Hostile) -> None:
    urls = [
        server.url(p) for p in ("/ok.jpg", "/cut", "/gzip", "/status/404", "/html", "/chain/3", "/short")
    ] * 5
    first = Fetch(config())(rows(*urls)).to_pylist()
    second = Fetch(config(concurrency=2, per_host=1, decode_threads=1, deadline_s=5))(
        rows(*urls[::-1])
    ).to_pylist()
    keep = [{k: v for k, v in row.items() if k not in ("key", "caption")} for row in first]
    again = [{k: v for k, v in row.items() if k not in ("key", "caption")} for row in second[::-1]]
    assert keep == again


def test_relative_urls_are_joined(server: Hostile) -> None:
    row = fetch_one("chain/1", base_url=server.url(""))
    assert row["status"] == "success" and row["url"] == "chain/1"


def test_folder_of_images(tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "val").mkdir(parents=True)
    (root / "val/a b#1.jpg").write_bytes(JPEG)
    (root / "empty.jpg").touch()
    (root / "big.jpg").write_bytes(bytes(1_000_001))
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    wanted = {
        "val/a b#1.jpg": "success",
        "./val/../val/a b#1.jpg": "success",
        "val/none.jpg": "missing_file",
        "val": "missing_file",
        "val/a b#1.jpg/x": "missing_file",
        "../secret.jpg": "bad_url",
        "val/../../secret.jpg": "bad_url",
        str(tmp_path / "secret.jpg"): "bad_url",
        "empty.jpg": "empty_body",
        "big.jpg": "too_big",
    }
    for address in (str(root), root.as_uri()):
        out = Fetch(config(image_root=address))(rows(*wanted)).to_pylist()
        assert {row["url"]: row["status"] for row in out} == wanted, [r["error_message"] for r in out]


def test_folder_behind_fsspec() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/fetch-test/a.jpg", JPEG)
    out = Fetch(config(image_root="memory://fetch-test"))(rows("a.jpg", "b.jpg", "../a.jpg"))
    assert out["status"].to_pylist() == ["success", "missing_file", "bad_url"]


def test_bytes_that_came_with_a_tar() -> None:
    tar = [{"image": JPEG}, {"image": b"<html>"}, {"error_message": "the sample has no image member"}]
    batch = pa.concat_tables([rows("a.tar#1", **row) for row in tar])
    out = Fetch(config())(batch).to_pylist()
    assert [row["status"] for row in out] == ["success", "not_image", "missing_file"]
    assert out[2]["error_message"] == "the sample has no image member"


def test_progress_is_told_after_every_row() -> None:
    told: list[int] = []
    stage = Fetch(config())
    stage.on_progress(lambda: told.append(1))
    stage(rows("ftp://a/b", None, "mailto:x"))
    assert len(told) == 3


def test_unforeseen_exception_is_the_rows_not_the_shards(
    server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes, config: DecodeConfig) -> None:
        raise ZeroDivisionError("of all\nthings")

    monkeypatch.setattr("stages.fetch.decode_picture", broken)
    out = Fetch(config())(rows(server.url("/ok.jpg"), server.url("/status/404"))).to_pylist()
    assert [row["status"] for row in out] == ["internal", "http_404"]
    assert out[0]["error_message"] == "ZeroDivisionError: of all things"


def test_inside_a_running_loop(server: Hostile) -> None:
    async def notebook() -> pa.Table:
        return Fetch(config())(rows(server.url("/ok.jpg")))

    assert asyncio.run(notebook())["status"].to_pylist() == ["success"]


def test_no_rows() -> None:
    assert Fetch(config())(rows()).num_rows == 0


def test_config_mistakes() -> None:
    with pytest.raises(ValueError, match="remove one"):
        config(base_url="http://a/", image_root="/b")
    with pytest.raises(ValueError, match="starts with http"):
        config(base_url="s3://a/")


def test_statuses() -> None:
    assert [http_status(code) for code in (401, 403, 404, 410, 408, 429, 500, 599, 600)] == [
        "http_403", "http_403", "http_404", "http_404", "http_4xx", "http_429", "http_5xx", "http_5xx", "http_invalid",
    ]  # fmt: skip
    retryable = {name for name, status in STATUSES.items() if status.retryable}
    assert retryable == {"dns", "connect", "timeout", "http_429", "http_5xx", "internal"}
    assert len(Failure("decode", "a\x00b\n" * 1000).message) <= 300
    with pytest.raises(AssertionError):
        Failure("made_up", "")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.9.9.9",
        "169.254.1.1",
        "172.31.0.1",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::10.0.0.1",
        "fc00::1",
        "fe80::1",
        "ff02::1",
        "2001:db8::1",
        "2002:a00:1::1",
        "::ffff:127.0.0.1",
    ],
)
def test_private(address: str) -> None:
    assert not is_public(address)
