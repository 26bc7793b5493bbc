"""One url → its bytes, or a `Failure`: within a deadline, under a byte cap, retried only where that can help.

`Downloader` belongs to one event loop. Time that a url waits for its turn is not its own; time for redirects,
retries and the pauses between them is. An attempt whose connection ends without any answer is two requests: aiohttp
asks once more, since a connection that was kept open may just have been closed.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Annotated, ClassVar, Self, TypeVar

import aiohttp
from annotated_types import Ge, Gt, Le
from yarl import URL

from stages.addresses import GuardedResolver, check_host, normal_host
from stages.status import Failure, http_status

REDIRECTS = (301, 302, 303, 307, 308)
DNS_CACHE_SECONDS = 60
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """How the web is asked."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    deadline_s: Annotated[float, Gt(0), Le(3600)] = 30.0
    """Seconds one url may take in all: name lookup, connections, redirects, retries, pauses, the last byte."""
    connect_timeout_s: Annotated[float, Gt(0), Le(3600)] = 5.0
    """Seconds until a host accepts a connection, TLS included."""
    max_bytes: Annotated[int, Ge(1)] = 20_000_000
    """Bytes of a body (after decompression) beyond which a url is given up. Memory holds at most `concurrency`
    times as many."""
    max_redirects: Annotated[int, Ge(0), Le(50)] = 5
    """Redirects that are followed, each checked like a first url."""
    retries: Annotated[int, Ge(0), Le(20)] = 2
    """Further attempts after a failure of a retryable class (see stages/status.py)."""
    backoff_s: Annotated[float, Ge(0), Le(600)] = 1.0
    """Pause before the first retry; it doubles each time and varies by half, so that retries spread. A server's
    Retry-After goes before it where it is longer."""
    concurrency: Annotated[int, Ge(1), Le(4096)] = 64
    """Urls under way at once in one worker."""
    per_host: Annotated[int, Ge(1), Le(4096)] = 8
    """Of these, urls of the same host."""
    contact: str | None = None
    """Web page or mail address by which an administrator reaches you; sent with every request."""
    allow_private: tuple[str, ...] = ()
    """Hosts (names or addresses, as they stand in urls) that may lie in private address space: an intranet, a test."""

    def __post_init__(self) -> None:
        if self.contact is not None and not (self.contact.isascii() and self.contact.isprintable()):
            raise ValueError(f"contact {self.contact!r}: printable ASCII only, it is sent as an HTTP header")

    @property
    def user_agent(self) -> str:
        return f"capfilt/0.1 (+{self.contact})" if self.contact else "capfilt/0.1 (image-text corpus builder)"


@dataclass
class Clock:
    """What is left of a url's time; it runs only while the url has its turn."""

    remaining: float

    def spend(self, seconds: float) -> None:
        self.remaining -= seconds


class Downloader:
    """Asks for urls, at most `concurrency` at once and `per_host` of a host. Use as async context manager.

    Args:
        config: limits and manners.
        threads: where blocking name lookups run.
    """

    def __init__(self, config: DownloadConfig, threads: Executor) -> None:
        self.config, self._threads = config, threads
        self._allowed = frozenset(normal_host(host) for host in config.allow_private)
        self._turns = asyncio.Semaphore(config.concurrency)
        self._hosts: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(config.per_host)
        )
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(self._allowed, self._threads),
            ttl_dns_cache=DNS_CACHE_SECONDS,
            limit=self.config.concurrency,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.config.connect_timeout_s),
            headers={
                "User-Agent": self.config.user_agent,
                "Accept": "image/avif,image/webp,image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",  # pictures are compressed; a gzip body would hide its size
            },
            auto_decompress=False,
            trust_env=False,  # a proxy would resolve names for us, unchecked
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def download(self, url: str, finish: Callable[[bytes], Awaitable[T]]) -> T:
        """Body of `url`, passed through `finish`.

        Args:
            url: absolute http(s) url.
            finish: what is done with the bytes while the url still has its turn, so that the bytes that wait for
                it are bounded by `concurrency`. It does not count against the deadline.

        Raises:
            Failure: with the status of the last attempt.
        """
        target = web_url(url)
        clock = Clock(self.config.deadline_s)
        for attempt in range(self.config.retries + 1):
            try:
                return await self._follow(target, clock, finish)
            except Failure as failure:
                pause = self._pause(failure, url, attempt)
                if not failure.retryable or attempt == self.config.retries or pause >= clock.remaining:
                    raise
            clock.spend(pause)
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, failure: Failure, url: str, attempt: int) -> float:
        # Keyed, not drawn: the same url waits equally long in every run.
        jitter = 0.5 + Random(f"{url}/{attempt}").random()
        return max(self.config.backoff_s * 2**attempt * jitter, failure.retry_after or 0.0)

    async def _follow(self, url: URL, clock: Clock, finish: Callable[[bytes], Awaitable[T]]) -> T:
        """One attempt: redirects up to the first real answer. Each hop queues for the host it goes to."""
        seen = {url}
        for _ in range(self.config.max_redirects + 1):
            check_host(url.host or "", self._allowed)
            # Host first: whoever waits for a slow host must not occupy a turn.
            async with self._hosts[normal_host(url.host or "")], self._turns:
                answer = await self._ask(url, clock)
                if not isinstance(answer, URL):
                    return await finish(answer)
            url = answer
            if url in seen:
                raise Failure("redirect", f"redirects lead back to {url}")
            seen.add(url)
        raise Failure("redirect", f"more than {self.config.max_redirects} redirects")

    async def _ask(self, url: URL, clock: Clock) -> bytes | URL:
        """One request: the body, or the url it redirects to; spends the clock."""
        start = time.monotonic()
        try:
            async with (
                asyncio.timeout(max(0.0, clock.remaining)),
                _failures(url),
                self._session.get(url, allow_redirects=False) as response,
            ):
                return await self._answer(response)
        except TimeoutError as error:
            raise Failure("timeout", f"no complete answer within {self.config.deadline_s:g} s") from error
        finally:
            clock.spend(time.monotonic() - start)

    async def _answer(self, response: aiohttp.ClientResponse) -> bytes | URL:
        code = response.status
        if 300 <= code < 400:
            return _redirect(response)
        if not 200 <= code < 300:
            message = f"{response.url.host} answered {code}"
            raise Failure(http_status(code), message, retry_after=_retry_after(response.headers))
        return await self._body(response)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self.config.max_bytes
        if (response.content_length or 0) > limit:
            raise Failure("too_big", f"{response.content_length} bytes announced, at most {limit} are taken")
        compressed = response.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip", "deflate")
        inflate = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS) if compressed else None
        body = bytearray()
        async for chunk in response.content.iter_any():
            # One byte beyond the limit is enough to know; a bomb is never inflated further.
            body += inflate.decompress(chunk, limit + 1 - len(body)) if inflate else chunk
            if len(body) > limit:
                raise Failure("too_big", f"more than {limit} bytes")
        if not body:
            raise Failure("empty_body", f"{response.url.host} answered {response.status} without a body")
        return bytes(body)


def web_url(url: str) -> URL:
    """`url` parsed, for http and https only.

    Raises:
        Failure: bad_url.
    """
    try:
        parsed = URL(url)
        usable = parsed.scheme in ("http", "https") and bool(parsed.host) and parsed.port != 0
    except ValueError as error:
        raise Failure("bad_url", f"{url[:80]!r} is malformed: {error}") from error
    if not usable:
        raise Failure("bad_url", f"{url[:80]!r} is not an http(s) url with a host")
    return parsed.with_fragment(None)


@asynccontextmanager
async def _failures(url: URL) -> AsyncIterator[None]:
    """Turns what aiohttp and the system raise into statuses; what is not foreseen passes through."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise Failure("timeout", f"{url.host} does not accept connections") from error
    except aiohttp.ClientSSLError as error:
        raise Failure("tls", f"{url.host}: {error}") from error
    except aiohttp.InvalidURL as error:
        raise Failure("bad_url", f"{url}: {error}") from error
    except (aiohttp.ClientResponseError, zlib.error) as error:
        raise Failure("http_invalid", f"{url.host}: {error}") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
        raise Failure("connect", f"{url.host}: {error or type(error).__name__}") from error


def _redirect(response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if response.status not in REDIRECTS or not location:
        raise Failure("redirect", f"{response.url.host} answered {response.status} without saying where to")
    try:
        return web_url(str(response.url.join(URL(location))))
    except (ValueError, Failure) as error:
        raise Failure("redirect", f"to {location[:80]!r}, no http(s) url") from error


def _retry_after(headers: object) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date (RFC 9110, 10.2.3); None if neither."""
    value = str(headers.get("Retry-After", "")).strip()  # type: ignore[attr-defined]
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
