"""Settings of `stages.fetch.http.downloader`: time, size and rate limits, robots.txt, block lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from capfilt.stages.fetch.http import robots
from capfilt.stages.fetch.http.optout import HONORED, Signal
from capfilt.stages.fetch.urls.exceptions import parse_exceptions


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """How urls are requested."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    deadline_s: Annotated[float, Gt(0), Le(3600)] = 30.0
    """Seconds that one url may take in total: connections, redirects, retries, back-off, the whole body. The
    robots.txt of its host, requested once, has a deadline of the same length."""
    connect_timeout_s: Annotated[float, Gt(0), Le(3600)] = 5.0
    """Seconds for a DNS lookup, and for a connection, TLS included."""
    max_bytes: Annotated[int, Ge(1)] = 20_000_000
    """Maximum size of a body in bytes, after decompression; a larger one fails as `too_big`."""
    memory_bytes: Annotated[int, Ge(1)] = 256_000_000
    """Bytes that all bodies of a worker hold together, from download through decoding; beyond that, downloads
    wait. One body at a time may exceed it: the upper bound is `memory_bytes` + `max_bytes`, and 1 MB per
    connection."""
    max_redirects: Annotated[int, Ge(0), Le(50)] = 5
    """Redirects that are followed, each checked like the first url."""
    retries: Annotated[int, Ge(0), Le(20)] = 2
    """Further attempts after a retryable failure (see docs/statuses.md)."""
    backoff_s: Annotated[float, Ge(0), Le(600)] = 1.0
    """Seconds before the first retry; doubled for each further retry and varied by up to half, so that
    retries spread. The server's Retry-After is used instead where it is longer."""
    concurrency: Annotated[int, Ge(1), Le(4096)] = 256
    """Maximum concurrent requests of a worker; each takes a file descriptor."""
    per_host: Annotated[int, Ge(1), Le(4096)] = 8
    """Maximum concurrent requests of a worker to the same host name."""
    per_host_per_second: Annotated[float, Gt(0), Le(100_000)] | None = 50.0
    """Requests per second to the same host name by all workers of a node together; null = no limit. Each
    worker has an equal share, whether or not the others use theirs: the limit always holds, and a host whose
    rows are in few shards may get fewer requests."""
    robots: bool = True
    """Request each host's robots.txt first and obey it (RFC 9309; details in stages/fetch/http/robots.py)."""
    max_crawl_wait_s: Annotated[float, Ge(0), Le(86_400)] = 30.0
    """Maximum seconds that a url waits for the Crawl-delay of robots.txt, which is multiplied by the number
    of workers; a url that would wait longer fails as `rate`."""
    optout: tuple[str, ...] = ("noai", "noimageai", "noindex", "none")
    """X-Robots-Tag directives on which a url fails as `optout`; an empty list disables the check."""
    optout_signals: tuple[Signal, ...] | None = None
    """Other signals against the training of models on which a url fails as `optout`; the corpus column
    `optout_signal` names those that spoke, honored or not. `content-usage`: `train-ai=n`, as a header or in
    robots.txt. `content-signal`: `ai-train=no` in robots.txt. `tdm-reservation`: this header with 1.
    `tdmrep.json`: this file of the site, one more request per host. Default: the first three. See
    docs/fetching.md."""
    blocked: tuple[str, ...] = ()
    """Block lists: text files (any fsspec URL) with one url, host or sha256 of an image per line."""
    host_failures: Annotated[int, Ge(1)] = 3
    """Consecutive failures (no address, no connection, no complete response in time, or another 429 after the
    requested back-off) after which a host is skipped."""
    host_rest_s: Annotated[float, Ge(0)] = 300.0
    """Seconds for which a host is skipped; its urls fail at once with the status of its last failure."""
    contact: str | None = None
    """Web page or mail address where administrators reach you; sent with every request."""
    allow_private: tuple[str, ...] = ()
    """What may be contacted in private address space: hosts (names or addresses, as written in urls),
    networks (10.0.0.0/8), and hosts with a port (images.intranet:9000), which may also be one of the ports
    that are refused because they are not used for HTTP."""

    def __post_init__(self) -> None:
        parse_exceptions(self.allow_private)
        if self.contact is not None and not (self.contact.isascii() and self.contact.isprintable()):
            raise ValueError(
                f"contact {self.contact!r}: use printable ASCII characters only; it is sent as an HTTP header"
            )
        for directive in self.optout:
            if directive != directive.lower().strip() or not directive:
                raise ValueError(
                    f"optout {directive!r}: write X-Robots-Tag directives in lower case, such as noai"
                )

        if self.optout_signals and len(set(self.optout_signals)) < len(self.optout_signals):
            raise ValueError(f"optout_signals {', '.join(self.optout_signals)}: name each signal once")

    @property
    def honored_signals(self) -> tuple[Signal, ...]:
        """Signals beside X-Robots-Tag on which a url fails."""
        return HONORED if self.optout_signals is None else self.optout_signals

    @property
    def user_agent(self) -> str:
        """User-Agent header: the product token, and `contact` if given."""
        comment = f"+{self.contact}" if self.contact else "image-text corpus builder"
        return f"{robots.PRODUCT_TOKEN}/0.1 ({comment})"
