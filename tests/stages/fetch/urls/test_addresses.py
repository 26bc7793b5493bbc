"""The guard against private addresses: public addresses, allowed hosts, and the resolution of names."""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

import pytest

from capfilt.stages.fetch.urls import addresses
from capfilt.stages.fetch.urls.addresses import GuardedResolver, check_host, is_public
from capfilt.stages.fetch.urls.exceptions import Exceptions, normalize_host, parse_exceptions
from capfilt.stages.status import Failure, Unreachable
from tests.stages.fetch.conftest import VirtualTime
from tests.stages.fetch.hostile_server import ADDRESSES

pytestmark = pytest.mark.usefixtures("loopback_only")


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "::8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
        "2001:0:4136:e378:8000:63bf:f7f7:f7f7",  # Teredo, client 8.8.8.8
    ],
)
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
        "::2",
        "::10.0.0.1",
        "fc00::1",
        "fe80::1",
        "ff02::1",
        "ff0e::1",
        "2001:db8::1",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo, client 10.0.0.1
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "64:ff9b:1::1:a00:1",  # only the last 32 bits are the IPv4 address
        "::1:808:808",  # not IPv4-compatible
        "::ffff:127.0.0.1",
    ],
)
def test_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", ["A.test.", "a.TEST", "[a.test]"])
def test_normalized_hosts(host: str) -> None:
    assert normalize_host(host) == "a.test"


@pytest.mark.parametrize(
    "host", ["a.test", "8.8.8.8", "[2606:4700::1111]", "10.0.0.1", "x1", "0x.test", "127.1"]
)
def test_accepted_hosts(host: str) -> None:
    check_host(host, Exceptions(frozenset({"10.0.0.1", "127.1"})))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("10.0.0.2", "private_address"),
        ("[::1]", "private_address"),
        ("10.0.0.2.", "private_address"),
        ("127.2", "bad_url"),
        ("2130706433", "bad_url"),
        ("0x7f.1", "bad_url"),
        ("a.0x7f", "bad_url"),
        ("a.0x", "bad_url"),
        ("a.7.", "bad_url"),
    ],
)
def test_rejected_hosts(host: str, status: str) -> None:
    with pytest.raises(Failure) as caught:
        check_host(host, Exceptions(frozenset({"10.0.0.1", "127.1"})))
    assert caught.value.status == status


class SameThread:
    """An executor that runs every call at once; counts the lookups."""

    def __init__(self) -> None:
        self.hosts: list[str] = []

    def submit(self, function: Any, host: str) -> Future[Any]:
        self.hosts.append(host)
        result: Future[Any] = Future()
        result.set_result(function(host))
        return result

    def shutdown(self, **_: Any) -> None:
        pass


def make_resolver(*allowed: str) -> tuple[GuardedResolver, SameThread]:
    resolver, threads = GuardedResolver(parse_exceptions(allowed), timeout_s=1.0), SameThread()
    resolver._threads = threads  # type: ignore[assignment]
    return resolver, threads


@pytest.fixture
def public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ADDRESSES, "public.test", ["93.184.215.14", "93.184.215.15"])


@pytest.mark.usefixtures("public_name")
def test_addresses_are_cached_for_five_minutes(virtual_time: VirtualTime) -> None:
    async def look_up() -> None:
        resolver, threads = make_resolver()
        found = await asyncio.gather(*(resolver.resolve("public.test", 80) for _ in range(5)))
        assert [each["host"] for each in found[0]] == ADDRESSES["public.test"]
        assert {each["port"] for each in found[0]} == {80}
        assert threads.hosts == ["public.test"]
        await asyncio.sleep(299.0)
        resolver.evict_expired()
        await resolver.prefetch("public.test")
        assert threads.hosts == ["public.test"]
        await asyncio.sleep(1.0)
        await resolver.prefetch("public.test")
        assert threads.hosts == ["public.test"] * 2
        await asyncio.sleep(300.0)
        resolver.evict_expired()
        assert resolver._cache == {}

    virtual_time.run(look_up())


def test_addresses_are_checked_unless_the_host_is_allowed() -> None:
    async def look_up() -> None:
        resolver, _ = make_resolver("good.test")
        assert [each["host"] for each in await resolver.resolve("GOOD.test.")] == ["127.0.0.1"]
        for host in ("printer.test", "mixed.test"):
            for _ in range(2):  # failures are not cached as addresses
                with pytest.raises(
                    Failure, match=rf"^{host} resolves to 1.*, which is not a public"
                ) as caught:
                    await resolver.prefetch(host)
                assert caught.value.status == "private_address"

    asyncio.run(look_up())


def test_literal_addresses_need_no_lookup() -> None:
    async def look_up() -> None:
        resolver, threads = make_resolver()
        for host in ("8.8.8.8", "::1", "0x7f"):
            await resolver.prefetch(host)
        assert threads.hosts == []

    asyncio.run(look_up())


@pytest.mark.parametrize(
    ("error", "status", "final", "message"),
    [
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "dns",
            True,
            "Name or service not known",
        ),
        (socket.gaierror(socket.EAI_NODATA, "No address"), "dns", True, "No address"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "dns", False, "Temporary failure"),
        (OSError(24, "Too many open files"), "dns", False, "Too many open files"),
        (OSError("no text"), "dns", False, "no text"),
        (
            UnicodeError("label too long"),
            "bad_url",
            False,
            "'a.test' is not a valid host name: label too long",
        ),
        (None, "dns", True, "no address"),
    ],
)
def test_failed_lookups(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, status: str, final: bool, message: str
) -> None:
    def lookup(*_: Any, **__: Any) -> list[Any]:
        if error is None:
            return []
        raise error

    async def look_up() -> None:
        with pytest.raises(Failure) as caught:
            await make_resolver()[0].prefetch("a.test")
        assert (caught.value.status, caught.value.final) == (status, final)
        assert caught.value.message.removeprefix("a.test: ") == message
        assert isinstance(caught.value, Unreachable) == (status == "dns")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    asyncio.run(look_up())


@pytest.mark.usefixtures("public_name")
def test_wait_for_a_lookup_thread_is_not_part_of_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, which the lookup that times out does not free before it ends."""
    lookup, slow = socket.getaddrinfo, threading.Event()

    def blocking(host: str, *args: Any, **options: Any) -> list[Any]:
        if host == "slow.test":
            assert slow.wait(30)
            host = "public.test"
        return lookup(host, *args, **options)

    async def first_times_out_then_second() -> None:
        resolver = GuardedResolver(Exceptions(), timeout_s=0.2)
        first = asyncio.create_task(resolver.prefetch("slow.test"))
        await asyncio.sleep(0)
        second = asyncio.create_task(resolver.prefetch("public.test"))
        with pytest.raises(Unreachable, match=r"slow\.test: DNS lookup timed out after 0\.2 s") as caught:
            await first
        assert caught.value.status == "dns" and caught.value.retryable
        await asyncio.sleep(0.3)
        assert not second.done()
        slow.set()
        await second
        await resolver.close()

    monkeypatch.setattr(addresses, "LOOKUP_THREADS", 1)
    monkeypatch.setattr(socket, "getaddrinfo", blocking)
    run(first_times_out_then_second())


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


@pytest.mark.parametrize(
    "address",
    [
        *("fec0::1", "feff::1", "3fff::1", "3fff:fff::1", "64:ff9b:1::8.8.8.8", "100::1", "5f00::1"),
        *("192.0.0.192", "168.63.129.16", "100.100.100.200", "192.88.99.1", "::ffff:168.63.129.16"),
        *("64:ff9b::168.63.129.16", "2002:a83f:8110::1"),
    ],
)
def test_ranges_that_some_versions_of_python_take_for_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["3ffe:ffff::1", "168.63.129.15", "168.63.129.17", "192.0.1.1"])
def test_neighbors_of_these_ranges(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("port", [22, 25, 6379, 1, 10080, 3306, 11211])
def test_refused_ports(port: int) -> None:
    for host in ("a.test", "8.8.8.8"):
        with pytest.raises(Failure, match=rf"port {port} is refused: .* add {host}:{port} to") as caught:
            check_host(host, parse_exceptions([host]), port)
        assert caught.value.status == "bad_url"
        check_host(host, parse_exceptions([f"{host}:{port}"]), port)


@pytest.mark.parametrize("port", [80, 443, 8080, 81, 24, 6378, None])
def test_other_ports(port: int | None) -> None:
    check_host("a.test", Exceptions(), port)


@pytest.mark.parametrize(
    ("entries", "host", "port", "is_allowed"),
    [
        (["10.0.0.0/8"], "10.9.8.7", 80, True),
        (["10.0.0.0/8"], "11.0.0.1", 80, True),  # public
        (["10.0.0.0/8"], "192.168.0.1", 80, False),
        (["fd00::/8"], "fd00::1", 80, True),
        (["fd00::/8"], "10.0.0.1", 80, False),
        (["10.0.0.1"], "10.0.0.1", 81, True),
        (["10.0.0.1:81"], "10.0.0.1", 81, True),
        (["10.0.0.1:81"], "10.0.0.1", 80, False),
        (["[::1]:81"], "::1", 81, True),
        (["::1"], "[::1]", 80, True),
    ],
)
def test_exceptions(entries: list[str], host: str, port: int, is_allowed: bool) -> None:
    exceptions = parse_exceptions(entries)
    if is_allowed:
        check_host(host, exceptions, port)
    else:
        with pytest.raises(Failure):
            check_host(host, exceptions, port)


def test_exceptions_hold_for_names() -> None:
    for entries, allowed in (
        (["10.0.0.0/8"], True),
        (["10.1.0.0/16"], False),
        (["name.test:80"], True),
        (["name.test:81"], False),
        (["localhost"], False),
    ):
        resolver = GuardedResolver(parse_exceptions(entries), timeout_s=1.0)
        found = [(2, "10.0.0.1")]
        if allowed:
            assert resolver._check("name.test", 80, found) == found
        else:
            with pytest.raises(Failure, match="not a public address"):
                resolver._check("name.test", 80, found)


@pytest.mark.parametrize(
    "entry",
    [
        *("10.0.0.0/33", "10.0.0.1/8", "http://a.test", "a.test/path", "", "a b", "*", "*.test", "a.test:0"),
        *("a.test:65536", "a.test:x", "u@a.test", "true", "False", "none", ":80", "[::1"),
    ],
)
def test_other_entries_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"give host names, IP addresses, networks such as"):
        parse_exceptions([entry])


def test_a_bare_string_is_refused() -> None:
    with pytest.raises(ValueError, match=r"allow_private 'localhost': write a list, \[localhost\]"):
        parse_exceptions("localhost")
    assert parse_exceptions(["localhost"]).allows_host("LOCALHOST.")
