"""Which hosts may be asked: names and addresses of the public internet, and those the config opens.

A url list is written by strangers; a row that points at a cloud's metadata service or a printer's web page must
not get an answer. Every name is resolved here and nowhere else, the addresses are checked, and the connection
goes to exactly the addresses that were checked, so a name that resolves differently a second time gains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult

from capfilt.stages.status import Failure, Unreachable

DNS_SECONDS = 300.0
LOOKUPS = 128
"""Names looked up at once: each takes a thread, for as long as the system's resolver cares to wait."""

# Prefixes under which a gateway turns the last 32 bits of an IPv6 address into an IPv4 destination.
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
# WHATWG URL: a host whose last label is a number is an IPv4 address, in whatever spelling.
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:0x[0-9a-f]*|[0-9]+)$", re.IGNORECASE)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    Loopback, link-local (with the clouds' metadata address 169.254.169.254), RFC 1918, shared (RFC 6598), unique
    local, documentation, multicast and reserved ranges do not, nor does an IPv6 address that carries such an IPv4
    address inside (mapped, compatible, 6to4, Teredo, NAT64).

    Raises:
        ValueError: `address` is no IP address.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inside = _embedded(ip)
        if inside is not None:
            return _is_global(inside)
    return _is_global(ip)


def normal_host(host: str) -> str:
    """Host as the allow list compares it: lower case, no brackets, no trailing dot."""
    return host.strip("[]").rstrip(".").lower()


def check_host(host: str, allowed: Collection[str]) -> None:
    """Refuse a url's host that is itself a private address; names are checked when they are resolved.

    Raises:
        Failure: private_address, or bad_url for IPv4 in an unusual spelling (127.1, 2130706433, 0x7f.1), which
            some resolvers take for an address and some for a name.
    """
    name = normal_host(host)
    if name in allowed:
        return
    try:
        public = is_public(name)
    except ValueError:
        if _ENDS_IN_NUMBER.search(name):
            raise Failure("bad_url", f"host {name!r} is neither a name nor an IP address") from None
        return
    if not public:
        raise Failure("private_address", f"{name} is not a public address; fetch.allow_private opens it")


class GuardedResolver(AbstractResolver):
    """Resolves names through the system, and hands out only addresses that may be asked.

    Addresses are kept for `DNS_SECONDS`; a name is looked up once for all urls that wait for it. Belongs to one event
    loop.

    Args:
        allowed: hosts (see `normal_host`) whose addresses are not checked.
        patience: seconds a lookup may take. The thread it runs in cannot be ended; it is left behind.
    """

    def __init__(self, allowed: Collection[str], patience: float) -> None:
        self._allowed, self._patience = allowed, patience
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="lookup")
        self._free = asyncio.Semaphore(LOOKUPS)
        self._known: dict[str, tuple[float, list[tuple[int, str]]]] = {}
        self._asking: dict[str, asyncio.Task[list[tuple[int, str]]]] = {}

    async def prepare(self, host: str) -> None:
        """Look up a host that `check_host` let through, so that `resolve` need not wait.

        Raises:
            Unreachable: dns.
            Failure: bad_url (no possible name), or private_address if any of the addresses is private: a name that
                mixes both is made to be let through.
        """
        if ":" not in host and not _ENDS_IN_NUMBER.search(host):
            await self._find(host)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of `host`; raises like `prepare`."""
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=flags)
            for kind, address in await self._find(host)
        ]

    def forget_old(self) -> None:
        """Drop what has expired."""
        now = time.monotonic()
        self._known = {host: known for host, known in self._known.items() if known[0] > now}

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _find(self, host: str) -> list[tuple[int, str]]:
        known = self._known.get(host)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        task = self._asking.get(host)
        if task is None:
            task = self._asking[host] = asyncio.create_task(self._lookup(host))
            task.add_done_callback(lambda _: self._asking.pop(host, None))
        return await asyncio.shield(task)

    async def _lookup(self, host: str) -> list[tuple[int, str]]:
        found = await self._ask_system(host)
        if normal_host(host) not in self._allowed:
            for _, address in found:
                if not is_public(address):
                    raise Failure(
                        "private_address",
                        f"{host} resolves to {address}, not a public address; fetch.allow_private opens it",
                    )
        self._known[host] = (time.monotonic() + DNS_SECONDS, found)
        return found

    async def _ask_system(self, host: str) -> list[tuple[int, str]]:
        await self._free.acquire()  # a lookup that waits for a thread has not begun
        loop = asyncio.get_running_loop()
        answer = self._threads.submit(_addresses, host)
        answer.add_done_callback(lambda _: _release(loop, self._free))
        try:
            async with asyncio.timeout(self._patience):
                found = await asyncio.shield(asyncio.wrap_future(answer))
        except TimeoutError:
            raise Unreachable("dns", f"{host}: no name server answered within {self._patience:g} s") from None
        if isinstance(found, UnicodeError):  # a label is empty or too long
            raise Failure("bad_url", f"host {host!r} is no possible name: {found}")
        if isinstance(found, OSError):
            definite = found.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
            raise Unreachable("dns", f"{host}: {found.strerror or found}", final=definite)
        if not found:
            raise Unreachable("dns", f"{host}: no address", final=True)
        return found


def _addresses(host: str) -> list[tuple[int, str]] | OSError | UnicodeError:
    """(family, address) of a name; errors are returned, for nobody may be there any more to catch them."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return error
    return [(int(kind), str(address[0])) for kind, _, _, _, address in answers]


def _release(loop: asyncio.AbstractEventLoop, free: asyncio.Semaphore) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for threads any more
        loop.call_soon_threadsafe(free.release)


def _is_global(ip: IPv4Address | IPv6Address) -> bool:
    # is_global alone lets multicast and, in some versions of Python, reserved ranges through.
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_link_local)


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    last = int(ip) & 0xFFFFFFFF
    if int(ip) >> 32 == 0 and last > 1:  # ::a.b.c.d, deprecated; :: and ::1 have rules of their own
        return IPv4Address(last)
    return IPv4Address(last) if any(ip in prefix for prefix in _NAT64) else None
