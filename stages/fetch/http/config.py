"""Settings of `stages.fetch.http.downloader`: limits and manners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from capfilt.stages.fetch.http import robots


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """How the web is asked."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    deadline_s: Annotated[float, Gt(0), Le(3600)] = 30.0
    """Seconds one url may take in all: connections, redirects, retries, pauses, the last byte. Its host's robots.txt,
    asked for once, has as many."""
    connect_timeout_s: Annotated[float, Gt(0), Le(3600)] = 5.0
    """Seconds until a name is resolved, and until a host accepts a connection, TLS included."""
    max_bytes: Annotated[int, Ge(1)] = 20_000_000
    """Bytes of a body (after decompression) beyond which a url is given up."""
    memory_bytes: Annotated[int, Ge(1)] = 256_000_000
    """Bytes that all bodies under way in one worker hold together, decoding included; beyond, servers wait. The one
    that is furthest may exceed it: the bound is `memory_bytes` + `max_bytes`, and 1 MB a connection."""
    max_redirects: Annotated[int, Ge(0), Le(50)] = 5
    """Redirects that are followed, each checked like a first url."""
    retries: Annotated[int, Ge(0), Le(20)] = 2
    """Further attempts after a failure of a retryable class (see docs/statuses.md)."""
    backoff_s: Annotated[float, Ge(0), Le(600)] = 1.0
    """Pause before the first retry; it doubles each time and varies by half, so that retries spread. A server's
    Retry-After goes before it where it is longer."""
    concurrency: Annotated[int, Ge(1), Le(4096)] = 256
    """Requests under way at once in one worker; each takes a file descriptor."""
    per_host: Annotated[int, Ge(1), Le(4096)] = 8
    """Of these, requests to the same host name."""
    per_host_per_second: Annotated[float, Gt(0), Le(100_000)] | None = 50.0
    """Requests per second to the same host name by all workers of a node together; null = no limit. Each worker gets
    an equal share, whether the others ask that host or not: the limit always holds, and a host whose rows lie in few
    shards may get less."""
    robots: bool = True
    """Ask each host for its robots.txt first and obey it (RFC 9309; details in stages/fetch/http/robots.py)."""
    max_crawl_wait_s: Annotated[float, Ge(0), Le(86_400)] = 30.0
    """Seconds a url waits at the most for a Crawl-delay in robots.txt, which counts once for each worker; a url that
    would wait longer ends as `rate`."""
    optout: tuple[str, ...] = ("noai", "noimageai", "noindex", "none")
    """X-Robots-Tag directives that end a url as `optout`; an empty list turns that off."""
    blocked: tuple[str, ...] = ()
    """Text files (any fsspec URL) of urls, hosts and sha256 of pictures that are not taken, one a line."""
    host_failures: Annotated[int, Ge(1)] = 3
    """Failures in a row (no address, no connection, no whole answer in time, or 429 again after the wait it asked for)
    after which a host is given up."""
    host_rest_s: Annotated[float, Ge(0)] = 300.0
    """Seconds for which the urls of such a host end at once with the status of its last failure."""
    contact: str | None = None
    """Web page or mail address by which an administrator reaches you; sent with every request."""
    allow_private: tuple[str, ...] = ()
    """Hosts (names or addresses, as they stand in urls) that may lie in private address space: an intranet, a test."""

    def __post_init__(self) -> None:
        if self.contact is not None and not (self.contact.isascii() and self.contact.isprintable()):
            raise ValueError(f"contact {self.contact!r}: printable ASCII only, it is sent as an HTTP header")
        for directive in self.optout:
            if directive != directive.lower().strip() or not directive:
                raise ValueError(f"optout {directive!r}: X-Robots-Tag directives in lower case, such as noai")

    @property
    def user_agent(self) -> str:
        return (
            f"{robots.TOKEN}/0.1 (+{self.contact})"
            if self.contact
            else f"{robots.TOKEN}/0.1 (image-text corpus builder)"
        )
