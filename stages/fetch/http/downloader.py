"""One url in, its bytes or a `Failure` out.

The methods of `Downloader` are in the order in which a url passes through them:

    download → _with_retries → _follow_redirects → _fetch → _send → _get → _read

The deadline of a url includes redirects, retries and the pauses between them, but not the time in which the
url waits for other urls. An attempt whose connection ends without any response is two requests: aiohttp
repeats it, because the server may just have closed a connection that was kept open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TypeVar

import aiohttp
from yarl import URL

from capfilt.stages.fetch.http import robots
from capfilt.stages.fetch.http.byte_budget import ByteBudget, Reservation
from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.fetch.http.connections import open_session
from capfilt.stages.fetch.http.deadline import Deadline
from capfilt.stages.fetch.http.hosts import Host, HostLimits, HostTable
from capfilt.stages.fetch.http.optout import (
    X_ROBOTS_TAG,
    OptOuts,
    find_optout,
    read_reservation,
    usage_forbids_training,
)
from capfilt.stages.fetch.http.response import read_body, resolve_redirect, translate_errors
from capfilt.stages.fetch.http.site_files import SiteFiles, match_rules
from capfilt.stages.fetch.urls.addresses import GuardedResolver, check_host
from capfilt.stages.fetch.urls.blocklist import BlockList
from capfilt.stages.fetch.urls.exceptions import normalize_host, parse_exceptions
from capfilt.stages.fetch.urls.parse import parse_http_url
from capfilt.stages.status import Failure, Unreachable

T = TypeVar("T")


class DeadlinePassed(Unreachable):
    """The deadline of the url passed before the response was complete."""


@dataclass(frozen=True, kw_only=True)
class _Transfer:
    """State and limits of one url, from its first request to the end of its last attempt."""

    deadline: Deadline
    named_host: str
    """The host that the row names; redirects may lead to others."""
    reservation: Reservation = field(default_factory=Reservation)
    is_site_file: bool = False
    """A robots.txt or tdmrep.json: requested without checking robots.txt, and cut at its byte limit.
    Otherwise an image."""
    max_redirects: int
    max_bytes: int
    optouts: OptOuts = field(default_factory=lambda: OptOuts(()))


class Downloader:
    """Downloads urls, at most `concurrency` at a time and `per_host` per host.

    Belongs to the event loop in which it is created, and outlives the shards of its worker: what it learns
    about hosts (addresses, robots.txt, back-offs, failures) holds for later shards.

    Args:
        config: limits of the downloads.
        workers: workers that request from the same hosts; this one gets an equal share of each host's rate.
        blocked: urls and hosts that are not requested.
    """

    def __init__(self, config: DownloadConfig, *, workers: int = 1, blocked: BlockList | None = None) -> None:
        self.config, self.blocked = config, blocked or BlockList()
        self._hosts = HostTable(_host_limits(config, workers))
        self._allowed = parse_exceptions(config.allow_private)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._memory = ByteBudget(config.memory_bytes)
        self._resolver = GuardedResolver(self._allowed, config.connect_timeout_s)
        self._files = SiteFiles(self._hosts, self._download_site_file, config.host_rest_s)
        self._session = open_session(config, self._resolver)

    async def close(self) -> None:
        await self._session.close()
        await self._resolver.close()

    def evict_unused(self) -> None:
        """Forget hosts and addresses that were not used lately; call it between shards."""
        self._hosts.evict_idle()
        self._resolver.evict_expired()

    async def download(
        self, url: str, consume: Callable[[bytes], Awaitable[T]], spoken: set[str] | None = None
    ) -> T:
        """Download `url` and pass its body to `consume`.

        Args:
            url: absolute http(s) url.
            consume: receives the body, which counts as memory in use until `consume` returns. It holds no
                request slot and does not count against the deadline.
            spoken: receives the names of the opt-out signals that spoke against the url, honored or not.

        Returns:
            The result of `consume`.

        Raises:
            Failure: with the status of the last attempt.
        """
        parsed = parse_http_url(url)
        transfer = _Transfer(
            deadline=Deadline(self.config.deadline_s),
            named_host=normalize_host(parsed.raw_host or ""),
            max_redirects=self.config.max_redirects,
            max_bytes=self.config.max_bytes,
            optouts=OptOuts((X_ROBOTS_TAG, *self.config.honored_signals)),
        )
        try:
            return await consume(await self._with_retries(parsed, transfer))
        finally:
            if spoken is not None:
                spoken.update(transfer.optouts.found)
            self._memory.release(transfer.reservation)

    async def _with_retries(self, url: URL, transfer: _Transfer) -> bytes:
        """Attempt the url until an attempt succeeds, or fails in a way that a retry cannot help."""
        for attempt in range(self.config.retries + 1):
            try:
                return await self._follow_redirects(url, transfer)
            except Failure as failure:
                self._memory.release(transfer.reservation)
                pause = self._retry_pause(failure, url, attempt)
                is_last = attempt == self.config.retries
                if not failure.retryable or is_last or pause >= transfer.deadline.remaining:
                    raise
            transfer.deadline.consume(pause)
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _retry_pause(self, failure: Failure, url: URL, attempt: int) -> float:
        # The jitter is a function of url and attempt: the same url waits equally long in every run.
        jitter = 0.5 + Random(f"{url}/{attempt}").random()
        return max(self.config.backoff_s * 2**attempt * jitter, failure.retry_after or 0.0)

    async def _follow_redirects(self, url: URL, transfer: _Transfer) -> bytes:
        """One attempt: follow redirects to a body. Each hop is checked, and waits for its own host."""
        seen = {url}
        for _ in range(transfer.max_redirects + 1):
            reason = self.blocked.find_reason(url)
            if reason is not None:
                raise Failure("blocked", reason)
            check_host(url.raw_host or "", self._allowed, url.port)
            async with self._hosts.checked_out(url) as host:
                answer = await self._fetch(url, host, transfer)
            if isinstance(answer, bytes):
                return answer
            url = answer
            if url in seen:
                raise Failure("redirect", f"redirect loop: back to {url}")
            seen.add(url)
        raise Failure("redirect", f"more than {transfer.max_redirects} redirects")

    async def _fetch(self, url: URL, host: Host, transfer: _Transfer) -> bytes | URL:
        """One hop: a request, if robots.txt allows it, for the body or the next url."""
        if not transfer.is_site_file:
            await self._check_site(url, host, transfer)
        return await self._send(url, host, transfer)

    async def _check_site(self, url: URL, host: Host, transfer: _Transfer) -> None:
        """Check what the files of the site say about a url; they are requested where they are not cached."""
        place = (url.scheme, url.port)
        if self.config.robots:
            host.check_alive(url.port)
            rules = host.robots.get(place)
            if rules is None or rules.expires_at < time.monotonic():
                rules = await self._files.robots_of(url)
            for signal, message in await match_rules(rules, rules.judge, str(url)):
                transfer.optouts.note(signal, message)
            transfer.optouts.check()
        if "tdmrep.json" in self.config.honored_signals:
            host.check_alive(url.port)
            tdm = host.tdm.get(place)
            if tdm is None or tdm.expires_at < time.monotonic():
                tdm = await self._files.tdm_of(url)
            transfer.optouts.is_reserved = await match_rules(tdm, tdm.reserves, url)
        if self.config.robots:
            await host.wait_crawl_delay()

    async def _send(self, url: URL, host: Host, transfer: _Transfer) -> bytes | URL:
        """One request, in a slot of its host; the host records how it ended.

        Rows cannot silence another host by redirecting to it: its Retry-After counts only for rows that name
        it, and a deadline only if the host had at least half of it.
        """
        port, started = url.port, time.monotonic()
        available_s = self.config.deadline_s
        is_named = normalize_host(url.raw_host or "") == transfer.named_host
        host.check_alive(port)
        try:
            await self._resolver.prefetch(url.raw_host or "", port or 0)
            async with host.request_slot(transfer.deadline, self._slots):
                host.check_alive(port)  # other urls may have failed while this one waited
                started, available_s = time.monotonic(), transfer.deadline.remaining
                try:
                    answer = await self._get(url, host, transfer)
                except Unreachable:
                    raise
                except Failure as failure:
                    if is_named and self._apply_retry_after(host, failure):
                        host.record_failure(port, failure, started)
                    else:
                        host.record_response(port)
                    raise
                host.record_response(port)
                return answer
        except Unreachable as failure:
            if not isinstance(failure, DeadlinePassed) or available_s >= self.config.deadline_s / 2:
                host.record_failure(port, failure, started)
            raise

    def _apply_retry_after(self, host: Host, failure: Failure) -> bool:
        """Whether the response asks for a back-off; if so, it holds for all urls of the host."""
        seconds = failure.retry_after
        if failure.status == "http_429" or (failure.status == "http_5xx" and seconds is not None):
            host.back_off(failure, self.config.backoff_s if seconds is None else seconds)
            return True
        return False

    async def _get(self, url: URL, host: Host, transfer: _Transfer) -> bytes | URL:
        """The GET request: the body, or the target of a redirect. Consumes the deadline."""
        headers = {"Accept": "text/plain,*/*;q=0.5"} if transfer.is_site_file else None
        try:
            async with (
                transfer.deadline.active(),
                translate_errors(url),
                self._session.get(url, allow_redirects=False, headers=headers) as response,
            ):
                answer = resolve_redirect(response) or await self._read(response, transfer)
                if host.users <= 1:  # no other url needs the connection; an idle one takes a file descriptor
                    response.close()
                return answer
        except TimeoutError as error:
            raise DeadlinePassed(
                "timeout", f"no complete response within {self.config.deadline_s:g} s"
            ) from error

    async def _read(self, response: aiohttp.ClientResponse, transfer: _Transfer) -> bytes:
        """The body, unless the response opts out of the use of its image."""
        if not transfer.is_site_file:
            self._check_headers(response, transfer)
        return await read_body(
            response,
            transfer.max_bytes,
            truncate=transfer.is_site_file,
            reserve=partial(self._reserve, transfer),
        )

    def _check_headers(self, response: aiohttp.ClientResponse, transfer: _Transfer) -> None:
        """Check the opt-out signals of a response, of which TDM's header outranks the file of the site.

        Raises:
            Failure: optout, one that is honored speaks against the use.
        """
        headers, optouts = response.headers, transfer.optouts
        tags = headers.getall("X-Robots-Tag", [])
        if (directive := find_optout(tags, self.config.optout, robots.PRODUCT_TOKEN)) is not None:
            optouts.note(X_ROBOTS_TAG, f"X-Robots-Tag: {directive}")
        if usage_forbids_training(", ".join(headers.getall("Content-Usage", []))):
            optouts.note("content-usage", "Content-Usage: train-ai=n")
        reserved = read_reservation(headers.getall("tdm-reservation", []))
        if reserved:
            optouts.note("tdm-reservation", "tdm-reservation: 1")
        elif reserved is None and optouts.is_reserved:
            optouts.note("tdmrep.json", "tdmrep.json: tdm-reservation 1")
        optouts.check()

    async def _reserve(self, transfer: _Transfer, size: int) -> None:
        if self._memory.fits(transfer.reservation, size):
            await self._memory.acquire(transfer.reservation, size)
        else:
            async with transfer.deadline.paused():  # our decoding is slow, not the server
                await self._memory.acquire(transfer.reservation, size)

    async def _download_site_file(self, url: URL) -> bytes:
        """A robots.txt or tdmrep.json, cut at the byte limit."""
        transfer = _Transfer(
            deadline=Deadline(self.config.deadline_s),
            named_host=normalize_host(url.raw_host or ""),
            is_site_file=True,
            max_redirects=robots.MAX_REDIRECTS,
            max_bytes=robots.MAX_BYTES,
        )
        try:
            return await self._with_retries(url, transfer)
        finally:
            self._memory.release(transfer.reservation)


def _host_limits(config: DownloadConfig, workers: int) -> HostLimits:
    rate = config.per_host_per_second
    return HostLimits(
        max_connections=config.per_host,
        min_interval_s=workers / rate if rate else 0.0,
        workers=workers,
        max_crawl_wait_s=config.max_crawl_wait_s,
        max_failures=config.host_failures,
        rest_s=config.host_rest_s,
    )
