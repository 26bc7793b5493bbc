"""Exceptions from the guard against private addresses and refused ports (`fetch.allow_private`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

REFUSED_PORTS = frozenset({
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 2375, 2379, 3306, 3659, 4045, 4190, 5060, 5061, 5432, 6000,
    6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080, 11211, 27017,
})  # fmt: skip
"""Ports of services that are not HTTP: the "bad ports" of the Fetch standard, and those of Docker
(2375, 2379) and of databases, which answer to a line of text."""

_NAME = re.compile(r"[^\s/:@*?#\[\],]+")
_NOT_A_NAME = frozenset({"true", "false", "yes", "no", "on", "off", "null", "none", "all", "any"})


def normalize_host(host: str) -> str:
    """Host in the form in which hosts are compared: lower case, no brackets, no trailing dot."""
    return host.strip("[]").rstrip(".").lower()


@dataclass(frozen=True)
class Exceptions:
    """Hosts, networks and ports that may be contacted although they are private or refused."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    ports: frozenset[tuple[str, int]] = frozenset()

    def allows_host(self, host: str, port: int | None = None) -> bool:
        """Whether the addresses of a host need no check."""
        name = normalize_host(host)
        return name in self.hosts or (port is not None and (name, port) in self.ports)

    def allows_address(self, address: str) -> bool:
        """Whether an IP address is in an allowed network."""
        ip = ip_address(address)
        return any(ip.version == network.version and ip in network for network in self.networks)

    def allows_port(self, host: str, port: int | None) -> bool:
        """Whether a request may go to this port."""
        return port not in REFUSED_PORTS or (normalize_host(host), port) in self.ports


def parse_exceptions(entries: Iterable[str]) -> Exceptions:
    """Parse `allow_private`: host names, addresses, networks (10.0.0.0/8), and hosts with a port.

    Raises:
        ValueError: an entry is none of these.
    """
    if isinstance(entries, str):
        raise ValueError(f"allow_private {entries!r}: write a list, [{entries}]")
    hosts: set[str] = set()
    networks: list[IPv4Network | IPv6Network] = []
    ports: set[tuple[str, int]] = set()
    for entry in entries:
        name, port = _split_port(entry)
        try:
            if "/" in entry:
                networks.append(ip_network(entry))
                continue
        except ValueError as error:
            raise _invalid(entry, str(error)) from error
        if not name or (port is not None and not 0 < port < 65536) or not _is_host(name):
            raise _invalid(entry, "it is none of these")
        if port is None:
            hosts.add(normalize_host(name))
        else:
            ports.add((normalize_host(name), port))
    return Exceptions(frozenset(hosts), tuple(networks), frozenset(ports))


def _split_port(entry: str) -> tuple[str, int | None]:
    """(host, port) of host:port or [IPv6]:port; an IPv6 address without brackets has no port."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})", entry)
    return (match[1], int(match[2])) if match else (entry, None)


def _is_host(name: str) -> bool:
    try:
        ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
        return True
    except ValueError:
        return bool(_NAME.fullmatch(name)) and name.lower() not in _NOT_A_NAME


def _invalid(entry: str, reason: str) -> ValueError:
    return ValueError(
        f"allow_private {entry!r}: give host names, IP addresses, networks such as 10.0.0.0/8, or a host "
        f"with a port such as images.intranet:8080 ({reason})"
    )
