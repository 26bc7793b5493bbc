"""What a worker knows about each host, and when it may send the host a request.

A `Host` belongs to one event loop and outlives the shards of its worker. It ensures that a host

* gets at most `max_connections` concurrent requests, and no more requests per second than its rate limit;
* gets no request from any url while its Retry-After runs, not only from the url whose response carried it;
* gets no request at all for a while after several consecutive failures, so that dead hosts take neither time
  nor request slots from the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from yarl import URL

from capfilt.stages.fetch.http.deadline import Deadline
from capfilt.stages.fetch.http.optout import TdmRules
from capfilt.stages.fetch.http.robots import RobotsRules
from capfilt.stages.fetch.urls.exceptions import normalize_host
from capfilt.stages.status import Failure

MAX_HOSTS = 20_000
"""Hosts that are remembered, about 3 KB each."""
MAX_RETRY_AFTER_S = 3600.0
"""A longer Retry-After is cut to this: one absurd value must not block a host for a whole run."""


@dataclass(frozen=True, kw_only=True)
class HostLimits:
    """Limits of one worker for each host."""

    max_connections: int
    min_interval_s: float
    """Seconds between two requests, 0 = no rate limit."""
    workers: int
    """Workers that request from the same hosts; a Crawl-delay is multiplied by it."""
    max_crawl_wait_s: float
    max_failures: int
    """Consecutive failures after which the host is skipped."""
    rest_s: float
    """Seconds for which it is skipped."""


@dataclass
class _FailureStreak:
    """Consecutive failures of one port."""

    count: int = 0
    last_at: float = 0.0
    skip_until: float = 0.0
    status: str = ""
    message: str = ""


@dataclass
class Host:
    """One host name: its limits, its back-off, its failures, and the rules of its sites by (scheme, port)."""

    limits: HostLimits
    users: int = 0
    """Urls that wait for the host or are being requested from it."""
    # The clock is looked up at each call, like everywhere else, so that a test can replace it.
    last_used: float = field(default_factory=lambda: time.monotonic())
    robots: dict[tuple[str, int | None], RobotsRules] = field(default_factory=dict)
    tdm: dict[tuple[str, int | None], TdmRules] = field(default_factory=dict)
    _crawl_delay: float = 0.0
    _next_crawl_at: float = 0.0
    _next_request_at: float = 0.0
    _back_off_until: float = 0.0
    _back_off_cause: tuple[str, str] = ("", "")
    _streaks: dict[int | None, _FailureStreak] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._connections = asyncio.Semaphore(self.limits.max_connections)
        self._pacer = asyncio.Lock()

    @asynccontextmanager
    async def request_slot(self, deadline: Deadline, worker_slots: asyncio.Semaphore) -> AsyncIterator[None]:
        """Wait until the host may get a request, then for one of the worker's slots, and hold both.

        A url that waits for its host holds no worker slot, so a slow host takes none from the others. A
        back-off that the host asked for consumes the url's deadline, waiting for other urls does not.

        Raises:
            Failure: http_429 or http_5xx, the back-off exceeds the time left for the url.
        """
        self._check_back_off(deadline)
        async with self._connections:
            if self.limits.min_interval_s or self._back_off_until > time.monotonic():
                # One url at a time: the interval starts when a request is sent, not when it gets its turn.
                async with self._pacer:
                    await self._wait_until_allowed(deadline)
                    await worker_slots.acquire()
                    self._next_request_at = time.monotonic() + self.limits.min_interval_s
            else:
                await worker_slots.acquire()
            try:
                yield
            finally:
                worker_slots.release()

    async def wait_crawl_delay(self) -> None:
        """Wait as long as the Crawl-delay of the host requires.

        Raises:
            Failure: rate, the wait would exceed `max_crawl_wait_s`.
        """
        if not self._crawl_delay:
            return
        now = time.monotonic()
        at = max(now, self._next_crawl_at)
        if at - now > self.limits.max_crawl_wait_s:
            raise Failure(
                "rate",
                f"skipped: robots.txt sets a Crawl-delay of {self._crawl_delay / self.limits.workers:g} s, "
                f"shared by {self.limits.workers} workers; the wait of {at - now:.0f} s exceeds "
                f"fetch.max_crawl_wait_s ({self.limits.max_crawl_wait_s:g})",
                final=True,
            )
        self._next_crawl_at = at + self._crawl_delay
        await asyncio.sleep(at - now)

    def set_crawl_delay(self, seconds: float) -> None:
        """Apply the Crawl-delay of a robots.txt; the workers share it."""
        self._crawl_delay = max(self._crawl_delay, seconds * self.limits.workers)

    def back_off(self, failure: Failure, seconds: float) -> None:
        """Send the host no request for `seconds`, as the response behind `failure` asks."""
        until = time.monotonic() + min(seconds, MAX_RETRY_AFTER_S)
        if until > self._back_off_until:
            self._back_off_until, self._back_off_cause = until, (failure.status, failure.message)

    def check_alive(self, port: int | None) -> None:
        """Return unless the port is skipped after too many consecutive failures.

        Raises:
            Failure: with the status of the last failure.
        """
        streak = self._streaks.get(port)
        if streak is not None and streak.skip_until > time.monotonic():
            raise Failure(
                streak.status,
                f"skipped: host is unavailable (consecutive failures: {streak.count}): {streak.message}",
                final=True,
            )

    def record_response(self, port: int | None) -> None:
        """The host answered, with any status: its failures no longer count."""
        self._streaks.pop(port, None)

    def record_failure(self, port: int | None, failure: Failure, started: float) -> None:
        """Count a request, sent at `started`, that the host did not answer, or answered with another 429.

        Concurrent requests count as one failure: a short outage does not make a host dead.
        """
        streak = self._streaks.setdefault(port, _FailureStreak())
        if started < streak.last_at and not failure.final:
            return
        now = time.monotonic()
        streak.count, streak.last_at = streak.count + 1, now
        streak.status, streak.message = failure.status, failure.message
        if failure.final or streak.count >= self.limits.max_failures:
            streak.skip_until = now + self.limits.rest_s

    def _check_back_off(self, deadline: Deadline) -> float:
        """Seconds that are left of the back-off; raises if the url has less time."""
        left = self._back_off_until - time.monotonic()
        if left > 0 and left >= deadline.remaining:
            status, message = self._back_off_cause
            raise Failure(
                status,
                f"skipped: host asked for a {left:.0f} s back-off (Retry-After): {message}",
                final=True,
            )
        return max(0.0, left)

    async def _wait_until_allowed(self, deadline: Deadline) -> None:
        while True:
            back_off = self._check_back_off(deadline)
            wait = max(back_off, self._next_request_at - time.monotonic())
            if wait <= 0:
                return
            deadline.consume(back_off)
            await asyncio.sleep(wait)


class HostTable:
    """The hosts of one worker.

    Args:
        limits: the limits of every host.
    """

    def __init__(self, limits: HostLimits) -> None:
        self._limits = limits
        self._hosts: dict[str, Host] = {}

    def get(self, name: str) -> Host:
        """Return the host of a name in the form of `stages.fetch.urls.addresses.normalize_host`."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(self._limits)
        return host

    def evict_idle(self) -> None:
        """Remove the least recently used hosts beyond `MAX_HOSTS`; hosts in use stay."""
        if len(self._hosts) > MAX_HOSTS:
            idle = sorted((host.last_used, name) for name, host in self._hosts.items() if not host.users)
            for _, name in idle[: len(self._hosts) - MAX_HOSTS]:
                del self._hosts[name]

    @asynccontextmanager
    async def checked_out(self, url: URL) -> AsyncIterator[Host]:
        """The host of a url, marked as in use."""
        host = self.get(normalize_host(url.raw_host or ""))
        host.users += 1
        try:
            yield host
        finally:
            host.users -= 1
            host.last_used = time.monotonic()

    def clear_rules(self) -> None:
        """Drop all cached rules of sites; they are requested again where they are needed."""
        for host in self._hosts.values():
            host.robots.clear()
            host.tdm.clear()
