"""Which hosts may be asked: names and addresses of the public internet, and those the config opens.

A url list is written by strangers; a row that points at a cloud's metadata service or a printer's web page must
not get an answer. Every name is resolved here and nowhere else, the addresses are checked, and the connection
goes to exactly the addresses that were checked, so a name that resolves differently a second time gains nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Collection
from concurrent.futures import Executor
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult

from stages.status import Failure

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

    Args:
        allowed: hosts (see `normal_host`) whose addresses are not checked.
        threads: where the blocking lookups run.
    """

    def __init__(self, allowed: Collection[str], threads: Executor) -> None:
        self._allowed, self._threads = allowed, threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of `host`.

        Raises:
            Failure: dns, bad_url (no possible name), or private_address if any of the addresses is private: a
                name that mixes both is made to be let through.
        """
        found = await self._lookup(host, port, family)
        if normal_host(host) not in self._allowed:
            for answer in found:
                if not is_public(answer["host"]):
                    raise Failure(
                        "private_address",
                        f"{host} resolves to {answer['host']}, not a public address; fetch.allow_private opens it",
                    )
        return found

    async def close(self) -> None:
        """Nothing is held."""

    async def _lookup(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        def ask() -> list[tuple[int, str]]:
            answers = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            return [(int(kind), str(address[0])) for kind, _, _, _, address in answers]

        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        except UnicodeError as error:  # a label is empty or too long
            raise Failure("bad_url", f"host {host!r} is no possible name: {error}") from error
        except OSError as error:
            raise Failure("dns", f"{host}: {error.strerror or error}") from error
        if not found:
            raise Failure("dns", f"{host}: no address")
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=flags)
            for kind, address in found
        ]


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
