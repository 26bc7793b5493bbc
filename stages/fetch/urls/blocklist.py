"""Block lists (`fetch.blocked`): urls, hosts and images that must not be requested or stored."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import fsspec
from yarl import URL

from capfilt.stages.fetch.urls.parse import parse_http_url
from capfilt.stages.status import Failure, quote
from capfilt.stages.storage.artifacts import ArtifactError

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_HOST = re.compile(r"[^\s/:@]+\.[^\s/:@]+")


@dataclass(frozen=True)
class BlockList:
    """The entries of all block lists; about 200 bytes of memory per entry in each worker."""

    urls: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()

    def find_reason(self, url: URL) -> str | None:
        """Return why `url` is blocked: the url, its host or a parent domain is listed. None if it is not."""
        if self.urls and _comparable(url) in self.urls:
            return "the url is on the block list"
        if self.hosts:
            labels = (url.raw_host or "").rstrip(".").split(".")
            for start in range(len(labels)):
                host = ".".join(labels[start:])
                if host in self.hosts:
                    return f"{host} is on the block list"
        return None


def read_block_list(addresses: Iterable[str]) -> BlockList:
    """Read the entries of all files at `addresses`.

    One entry per line: a url with its scheme, a host (subdomains included), or the sha256 of the original
    bytes of an image (64 hex digits). Empty lines and lines that start with `#` are ignored. Files that end
    in .gz, .bz2, .xz or .zst are decompressed.

    Raises:
        ArtifactError: a file cannot be read, or a line is not a valid entry.
    """
    urls, hosts, hashes = set(), set(), set()
    for address in addresses:
        for number, line in enumerate(_read_text(address).splitlines(), 1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            if _SHA256.fullmatch(entry):
                hashes.add(entry.lower())
            elif entry.lower().startswith(("http://", "https://")):
                urls.add(_normalize_url(entry, address, number))
            elif _HOST.fullmatch(entry):
                hosts.add(_normalize_host(entry, address, number))
            else:
                raise _invalid_line(entry, address, number)
    return BlockList(frozenset(urls), frozenset(hosts), frozenset(hashes))


def block_list_digest(addresses: Iterable[str]) -> str:
    """Digest of the entries, for fingerprints; independent of their order and of the names of the files.

    Raises:
        ArtifactError: see `read_block_list`.
    """
    found = read_block_list(addresses)
    lines = sorted(found.urls | found.hosts | found.hashes)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _read_text(address: str) -> str:
    try:
        with fsspec.open(address, "rb", compression="infer") as stream:
            return stream.read().decode("utf-8-sig")
    except (OSError, ImportError, UnicodeDecodeError, ValueError) as error:
        raise ArtifactError(
            f"fetch.blocked: cannot read {address} ({type(error).__name__}: {error}); "
            "give text files with one url, host or sha256 per line"
        ) from error


def _normalize_url(entry: str, address: str, number: int) -> str:
    try:
        return _comparable(parse_http_url(entry))
    except Failure as error:
        raise _invalid_line(entry, address, number) from error


def _normalize_host(entry: str, address: str, number: int) -> str:
    try:
        return URL.build(scheme="http", host=entry.rstrip(".").lower()).raw_host or entry
    except ValueError as error:  # characters that no host name has
        raise _invalid_line(entry, address, number) from error


def _comparable(url: URL) -> str:
    """The url with normalized escapes: another spelling of an escape does not pass the block list."""
    return str(URL(str(url)))


def _invalid_line(entry: str, address: str, number: int) -> ArtifactError:
    return ArtifactError(
        f"fetch.blocked: {address}, line {number}: {quote(entry)} is not an http(s) url, a host name or a "
        "sha256 (64 hex digits); fix the line or comment it out with #"
    )
