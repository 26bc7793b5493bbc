"""Urls, hosts and pictures that must not be asked for or stored, read from files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import fsspec
from yarl import URL

from capfilt.stages.storage.artifacts import ArtifactError

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_HOST = re.compile(r"[^\s/:@]+\.[^\s/:@]+")


@dataclass(frozen=True)
class BlockList:
    """What is not taken; about 200 bytes of memory an entry in each worker."""

    urls: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()

    def names(self, url: URL) -> str | None:
        """Why `url` is blocked, None if it is not: it is listed, or its host, or a domain above its host."""
        if self.urls and str(url) in self.urls:
            return "the url is on the block list"
        if self.hosts:
            labels = (url.raw_host or "").rstrip(".").split(".")
            for start in range(len(labels)):
                host = ".".join(labels[start:])
                if host in self.hosts:
                    return f"{host} is on the block list"
        return None


def read_block_list(addresses: Iterable[str]) -> BlockList:
    """The entries of all files together.

    One entry a line: a url with its scheme, a host (its subdomains with it), or the sha256 of a picture's bytes as
    they came (64 hex digits). Empty lines and lines that start with `#` mean nothing; .gz, .bz2, .xz and .zst files
    are unpacked.

    Raises:
        ArtifactError: a file cannot be read, or a line is none of these.
    """
    urls, hosts, hashes = set(), set(), set()
    for address in addresses:
        for number, line in enumerate(_text(address).splitlines(), 1):
            entry = line.strip()
            if not entry or entry.startswith("#"):
                continue
            if _SHA256.fullmatch(entry):
                hashes.add(entry.lower())
            elif entry.lower().startswith(("http://", "https://")):
                urls.add(_normal(entry, address, number))
            elif _HOST.fullmatch(entry):
                hosts.add(URL.build(scheme="http", host=entry.rstrip(".").lower()).raw_host or entry)
            else:
                raise _wrong(entry, address, number)
    return BlockList(frozenset(urls), frozenset(hosts), frozenset(hashes))


def block_list_digest(addresses: Iterable[str]) -> str:
    """Identity of the lists' contents for fingerprints: the same entries, in whatever order and files, are equal.

    Raises:
        ArtifactError: see `read_block_list`.
    """
    found = read_block_list(addresses)
    lines = sorted(found.urls | found.hosts | found.hashes)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _text(address: str) -> str:
    try:
        with fsspec.open(address, "rb", compression="infer") as stream:
            return stream.read().decode("utf-8-sig")
    except (OSError, ImportError, UnicodeDecodeError, ValueError) as error:
        raise ArtifactError(
            f"fetch.blocked: cannot read {address} ({type(error).__name__}: {error}); "
            "give text files with one url, host or sha256 a line"
        ) from error


def _normal(entry: str, address: str, number: int) -> str:
    """A url as the fetcher compares it: escapes, case of the host and default port made equal, no fragment."""
    try:
        return str(URL(entry).with_fragment(None))
    except ValueError as error:
        raise _wrong(entry, address, number) from error


def _wrong(entry: str, address: str, number: int) -> ArtifactError:
    return ArtifactError(
        f"fetch.blocked: {address}, line {number}: {entry[:80]!r} is no http(s) url, no host name and no sha256 "
        "(64 hex digits); mend the line or start it with #"
    )
