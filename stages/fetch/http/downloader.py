"""One url → its bytes, or a `Failure`: within a deadline, under a byte cap, with manners, retried where that can help.

`Downloader` belongs to one event loop and outlives the shards of its worker: what it learns of hosts (addresses,
robots.txt, pauses they asked for, that they are dead) holds for later shards. Time that a url waits for its turn is
not its own; time for redirects, retries and the pauses between them is. An attempt whose connection ends without any
answer is two requests: aiohttp asks once more, since a connection that was kept open may just have been closed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TypeVar

import aiohttp
from yarl import URL

from capfilt.stages.fetch.http import robots
from capfilt.stages.fetch.http.addresses import GuardedResolver, check_host, normal_host
from capfilt.stages.fetch.http.blocklist import BlockList
from capfilt.stages.fetch.http.byte_budget import ByteBudget, Reservation
from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.fetch.http.deadline import Deadline
from capfilt.stages.fetch.http.hosts import Host, HostLimits, Hosts
from capfilt.stages.fetch.http.optout import opted_out
from capfilt.stages.fetch.http.response import failures_of, read_body, redirect_of, web_url
from capfilt.stages.fetch.http.robots import Rules
from capfilt.stages.status import Failure, Unreachable

ROBOTS_KEPT = 1_000_000  # characters of rules, see Rules.size
T = TypeVar("T")
Step = Callable[[URL, Host], Awaitable[bytes | URL]]


class Downloader:
    """Asks for urls, at most `concurrency` at once and `per_host` of a host. Made inside the loop it belongs to.

    Args:
        config: limits and manners.
        workers: workers that ask the same hosts; this one gets an equal share of each host's rate.
        blocked: what is not asked for.
    """

    def __init__(self, config: DownloadConfig, *, workers: int = 1, blocked: BlockList | None = None) -> None:
        self.config, self.blocked = config, blocked or BlockList()
        rate = config.per_host_per_second
        limits = HostLimits(
            per_host=config.per_host,
            interval=workers / rate if rate else 0.0,
            workers=workers,
            max_crawl_wait=config.max_crawl_wait_s,
            failures=config.host_failures,
            rest=config.host_rest_s,
        )
        self._hosts = Hosts(limits)
        self._allowed = frozenset(normal_host(host) for host in config.allow_private)
        self._turns = asyncio.Semaphore(config.concurrency)
        self._memory = ByteBudget(config.memory_bytes)
        self._resolver = GuardedResolver(self._allowed, config.connect_timeout_s)
        self._asking: dict[URL, asyncio.Task[Rules]] = {}
        self._robots_size = 0
        self._session = aiohttp.ClientSession(
            # Addresses are kept by the resolver.
            connector=aiohttp.TCPConnector(
                resolver=self._resolver, use_dns_cache=False, limit=config.concurrency
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s),
            headers={
                "User-Agent": config.user_agent,
                "Accept": "image/avif,image/webp,image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",  # pictures are compressed; a gzip body would hide its size
            },
            auto_decompress=False,
            trust_env=False,  # a proxy would resolve names for us, unchecked
        )

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()

    def tidy(self) -> None:
        """Forget hosts and addresses that were not used lately; called between shards."""
        self._hosts.forget_idle()
        self._resolver.forget_old()

    async def download(self, url: str, finish: Callable[[bytes], Awaitable[T]]) -> T:
        """Body of `url`, passed through `finish`.

        Args:
            url: absolute http(s) url.
            finish: what is done with the bytes while they count as memory in use. It holds no turn and does not count
                against the deadline.

        Raises:
            Failure: with the status of the last attempt.
        """
        clock, share = Deadline(self.config.deadline_s), Reservation()
        step = partial(self._picture, clock, share)
        try:
            return await finish(
                await self._persist(web_url(url), self.config.max_redirects, step, clock, share)
            )
        finally:
            self._memory.give(share)

    async def _persist(
        self, url: URL, redirects: int, step: Step, clock: Deadline, share: Reservation
    ) -> bytes:
        """Attempts until one succeeds or cannot help."""
        for attempt in range(self.config.retries + 1):
            try:
                return await self._follow(url, redirects, step)
            except Failure as failure:
                self._memory.give(share)
                pause = self._pause(failure, url, attempt)
                if not failure.retryable or attempt == self.config.retries or pause >= clock.remaining:
                    raise
            clock.spend(pause)
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, failure: Failure, url: URL, attempt: int) -> float:
        # Keyed, not drawn: the same url waits equally long in every run.
        jitter = 0.5 + Random(f"{url}/{attempt}").random()
        return max(self.config.backoff_s * 2**attempt * jitter, failure.retry_after or 0.0)

    async def _follow(self, url: URL, redirects: int, step: Step) -> bytes:
        """One attempt: redirects up to the first real answer. Each hop waits for the host it goes to."""
        seen = {url}
        for _ in range(redirects + 1):
            reason = self.blocked.names(url)
            if reason is not None:
                raise Failure("blocked", reason)
            check_host(url.host or "", self._allowed)
            async with self._using(url) as host:
                answer = await step(url, host)
            if isinstance(answer, bytes):
                return answer
            url = answer
            if url in seen:
                raise Failure("redirect", f"redirects lead back to {url}")
            seen.add(url)
        raise Failure("redirect", f"more than {redirects} redirects")

    @asynccontextmanager
    async def _using(self, url: URL) -> AsyncIterator[Host]:
        host = self._hosts.of(normal_host(url.raw_host or ""))
        host.users += 1
        try:
            yield host
        finally:
            host.users -= 1
            host.used = time.monotonic()

    async def _picture(self, clock: Deadline, share: Reservation, url: URL, host: Host) -> bytes | URL:
        """One request for a picture, if the host's robots.txt allows it."""
        if self.config.robots:
            host.check_alive(url.port)
            rules = host.robots.get((url.scheme, url.port))
            if rules is None or rules.until < time.monotonic():
                rules = await self._ask_rules(url.origin() / "robots.txt")
            rules.check(str(url))
            await host.crawl_turn()
        return await self._ask(url, host, clock, partial(self._read_picture, clock, share))

    async def _read_picture(
        self, clock: Deadline, share: Reservation, response: aiohttp.ClientResponse
    ) -> bytes:
        tags = response.headers.getall("X-Robots-Tag", ())
        directive = opted_out(tags, self.config.optout, robots.TOKEN) if tags else None
        if directive is not None:
            raise Failure("optout", f"X-Robots-Tag: {directive}")
        lend = partial(self._lend, clock, share)
        return await read_body(response, self.config.max_bytes, cut=False, lend=lend)

    async def _ask_rules(self, url: URL) -> Rules:
        """The rules at `url`; one request for all who wait for them."""
        task = self._asking.get(url)
        if task is None:
            task = self._asking[url] = asyncio.create_task(self._fetch_rules(url))
            task.add_done_callback(lambda _: self._asking.pop(url, None))
        return await asyncio.shield(task)

    async def _fetch_rules(self, url: URL) -> Rules:
        clock, share = Deadline(self.config.deadline_s), Reservation()
        lend = partial(self._lend, clock, share)
        read = partial(read_body, limit=robots.SIZE_LIMIT, cut=True, lend=lend)

        async def step(url: URL, host: Host) -> bytes | URL:
            return await self._ask(url, host, clock, read, accept="text/plain,*/*;q=0.5")

        async with self._using(url) as host:
            try:
                rules = robots.rules_of(await self._persist(url, robots.REDIRECTS, step, clock, share))
            except Failure as failure:
                rules = robots.rules_without(failure, self.config.host_rest_s)
            finally:
                self._memory.give(share)
            self._robots_size += rules.size
            if self._robots_size > ROBOTS_KEPT:
                self._hosts.forget_robots()
                self._robots_size = rules.size
            host.robots[(url.scheme, url.port)] = rules
            host.set_crawl_delay(rules.delay)
        return rules

    async def _ask(
        self,
        url: URL,
        host: Host,
        clock: Deadline,
        read: Callable[[aiohttp.ClientResponse], Awaitable[bytes]],
        accept: str | None = None,
    ) -> bytes | URL:
        """One request, in the host's turn: the body, or the url it redirects to; spends the clock."""
        port, started = url.port, time.monotonic()
        host.check_alive(port)
        try:
            await self._resolver.prepare(url.raw_host or "")
            async with host.turn(clock, self._turns):
                host.check_alive(port)  # others may have found out while we queued
                started = time.monotonic()
                try:
                    answer = await self._request(url, host, clock, read, accept)
                except Unreachable:
                    raise
                except Failure as failure:
                    if self._wants_peace(host, failure):
                        host.failed(port, failure, started)
                    else:
                        host.answered(port)
                    raise
                host.answered(port)
                return answer
        except Unreachable as failure:
            host.failed(port, failure, started)
            raise

    def _wants_peace(self, host: Host, failure: Failure) -> bool:
        """Whether the answer asks for a pause; it holds for all urls of the host."""
        wish = failure.retry_after
        if failure.status == "http_429" or (failure.status == "http_5xx" and wish is not None):
            host.pause(failure, self.config.backoff_s if wish is None else wish)
            return True
        return False

    async def _request(
        self,
        url: URL,
        host: Host,
        clock: Deadline,
        read: Callable[[aiohttp.ClientResponse], Awaitable[bytes]],
        accept: str | None,
    ) -> bytes | URL:
        headers = {"Accept": accept} if accept else None
        try:
            async with (
                clock.running(),
                failures_of(url),
                self._session.get(url, allow_redirects=False, headers=headers) as response,
            ):
                answer = redirect_of(response) or await read(response)
                if (
                    host.users <= 1
                ):  # nobody else wants the connection; idle ones would use up file descriptors
                    response.close()
                return answer
        except TimeoutError as error:
            raise Unreachable("timeout", f"no complete answer within {self.config.deadline_s:g} s") from error

    async def _lend(self, clock: Deadline, share: Reservation, size: int) -> None:
        if self._memory.has(share, size):
            await self._memory.take(share, size)
        else:
            async with clock.stopped():  # our decoding is behind, which is not the server's fault
                await self._memory.take(share, size)
