"""The guard against private addresses: only the public internet, and the hosts that the config allows.

Anyone can write a url list, and a row may point at a cloud's metadata service or an intranet page. All names
are resolved here, every address is checked, and the connection uses exactly the checked addresses, so a name
that resolves differently the second time (DNS rebinding) does not pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult

from capfilt.stages.fetch.urls.exceptions import Exceptions, normalize_host
from capfilt.stages.status import Failure, Unreachable

DNS_CACHE_S = 300.0
LOOKUP_THREADS = 128
"""Concurrent DNS lookups. Each occupies a thread until the system's resolver returns."""

# The prefix under which a gateway translates the last 32 bits of an IPv6 address into an IPv4
# destination.
_NAT64 = IPv6Network("64:ff9b::/96")
# Ranges that some versions of Python take for global.
_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "fec0::/10",  # site-local (RFC 3879)
        "3fff::/20",  # documentation (RFC 9637)
        "64:ff9b:1::/48",  # NAT64 of a local network (RFC 8215)
        "100::/64",  # discard (RFC 6666)
        "5f00::/16",  # segment routing (RFC 9602)
        "2001:db8::/32",
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata service
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "168.63.129.16/32",  # Azure's host; a public address, but only its own machines reach it
        "100.100.100.200/32",  # Alibaba's metadata service
    )
)
# WHATWG URL: a host whose last label is a number is an IPv4 address, in any notation.
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:0x[0-9a-f]*|[0-9]+)$", re.IGNORECASE)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    False for loopback, site-local, link-local (with the clouds' metadata address 169.254.169.254), private
    (RFC 1918), shared (RFC 6598), unique local, documentation, multicast and reserved ranges, and for an
    IPv6 address that embeds such an IPv4 address (mapped, compatible, 6to4, Teredo, NAT64).

    Raises:
        ValueError: `address` is not an IP address.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address) and _is_listed(ip):
        return False
    if isinstance(ip, IPv6Address):
        embedded = _extract_ipv4(ip)
        if embedded is not None:
            return _is_global(embedded)
    return _is_global(ip)


def check_host(host: str, allowed: Exceptions, port: int | None = None) -> None:
    """Reject a refused port, and a url's host that is itself a private address.

    Names are checked when they are resolved.

    Raises:
        Failure: private_address; or bad_url for a port that is refused, or an IPv4 address in an unusual
            notation (127.1, 2130706433, 0x7f.1), which some resolvers read as an address, others as a name.
    """
    name = normalize_host(host)
    _check_address(name, allowed, port)
    if not allowed.allows_port(name, port):
        raise Failure(
            "bad_url",
            f"port {port} is refused: it is not used for HTTP; add {name}:{port} to fetch.allow_private to "
            "allow it",
        )


def _check_address(name: str, allowed: Exceptions, port: int | None) -> None:
    if allowed.allows_host(name, port):
        return
    try:
        public = is_public(name)
    except ValueError:
        if _ENDS_IN_NUMBER.search(name):
            raise Failure(
                "bad_url", f"host {name!r} is neither a host name nor an IP address in standard notation"
            ) from None
        return
    if not public and not allowed.allows_address(name):
        raise Failure(
            "private_address", f"{name} is not a public address; add it to fetch.allow_private to allow it"
        )


class GuardedResolver(AbstractResolver):
    """Resolves names through the system's resolver, and returns only addresses that may be contacted.

    Addresses are cached for `DNS_CACHE_S` seconds. Concurrent requests for a name share one lookup. Belongs
    to one event loop.

    Args:
        allowed: hosts whose addresses are not checked, and private networks.
        timeout_s: maximum duration of a lookup. After a timeout its thread runs on: it cannot be stopped.
    """

    def __init__(self, allowed: Exceptions, timeout_s: float) -> None:
        self._allowed, self._timeout_s = allowed, timeout_s
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")
        self._free_threads = asyncio.Semaphore(LOOKUP_THREADS)
        self._cache: dict[str, tuple[float, list[tuple[int, str]]]] = {}
        self._pending: dict[str, asyncio.Task[list[tuple[int, str]]]] = {}

    async def prefetch(self, host: str, port: int = 0) -> None:
        """Look up a host that passed `check_host`, so that `resolve` answers from the cache.

        Raises:
            Unreachable: dns.
            Failure: bad_url (not a valid name), or private_address if any of the addresses is private: a name
                with both kinds of addresses is an attempt to pass the check.
        """
        if ":" not in host and not _ENDS_IN_NUMBER.search(host):
            self._check(host, port, await self._find(host))

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`; raises like `prefetch`. aiohttp calls this."""
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=flags)
            for kind, address in self._check(host, port, await self._find(host))
        ]

    def evict_expired(self) -> None:
        """Remove expired addresses from the cache."""
        now = time.monotonic()
        self._cache = {host: entry for host, entry in self._cache.items() if entry[0] > now}

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _find(self, host: str) -> list[tuple[int, str]]:
        """(family, address) of a name, from the cache or from one lookup that all waiting urls share."""
        entry = self._cache.get(host)
        if entry is not None and entry[0] > time.monotonic():
            return entry[1]
        task = self._pending.get(host)
        if task is None:
            task = self._pending[host] = asyncio.create_task(self._lookup_and_cache(host))
            task.add_done_callback(lambda _: self._pending.pop(host, None))
        return await asyncio.shield(task)

    async def _lookup_and_cache(self, host: str) -> list[tuple[int, str]]:
        found = await self._lookup(host)
        self._cache[host] = (time.monotonic() + DNS_CACHE_S, found)
        return found

    def _check(self, host: str, port: int, found: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """`found`, if all of these addresses may be contacted."""
        if not self._allowed.allows_host(host, port):
            for _, address in found:
                if not is_public(address) and not self._allowed.allows_address(address):
                    raise Failure(
                        "private_address",
                        f"{host} resolves to {address}, which is not a public address; "
                        "add the host to fetch.allow_private to allow it",
                    )
        return found

    async def _lookup(self, host: str) -> list[tuple[int, str]]:
        await self._free_threads.acquire()  # the timeout does not include the wait for a thread
        loop = asyncio.get_running_loop()
        answer = self._threads.submit(_getaddrinfo, host)
        answer.add_done_callback(lambda _: _release_from_thread(loop, self._free_threads))
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await asyncio.shield(asyncio.wrap_future(answer))
        except TimeoutError:
            raise Unreachable("dns", f"{host}: DNS lookup timed out after {self._timeout_s:g} s") from None
        if isinstance(found, UnicodeError):  # a label is empty or too long
            raise Failure("bad_url", f"{host!r} is not a valid host name: {found}")
        if isinstance(found, OSError):
            definite = found.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
            raise Unreachable("dns", f"{host}: {found.strerror or found}", final=definite)
        if not found:
            raise Unreachable("dns", f"{host}: no address", final=True)
        return found


def _getaddrinfo(host: str) -> list[tuple[int, str]] | OSError | UnicodeError:
    """(family, address) of a name. Errors are returned, because after a timeout nothing awaits the result."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return error
    return [(int(kind), str(address[0])) for kind, _, _, _, address in answers]


def _release_from_thread(loop: asyncio.AbstractEventLoop, semaphore: asyncio.Semaphore) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: no lookup waits any more
        loop.call_soon_threadsafe(semaphore.release)


def _is_listed(ip: IPv4Address | IPv6Address) -> bool:
    return any(ip.version == network.version and ip in network for network in _NOT_PUBLIC)


def _is_global(ip: IPv4Address | IPv6Address) -> bool:
    if _is_listed(ip):
        return False
    # ip.is_global is also true for multicast and, in some versions of Python, for reserved ranges.
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_link_local)


def _extract_ipv4(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address embeds, None if it embeds none."""
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    last = int(ip) & 0xFFFFFFFF
    if int(ip) >> 32 == 0 and last > 1:  # ::a.b.c.d (deprecated); :: and ::1 are addresses of their own
        return IPv4Address(last)
    return IPv4Address(last) if ip in _NAT64 else None
