"""What a worker knows of each host, and the turns in which a host is asked.

A `Host` belongs to one event loop and outlives the shards of its worker. It sees to it that a host

* gets at most `per_host` requests at once and, where a rate is set, none sooner than the rate allows;
* is left in peace while its Retry-After runs, by all urls and not only the one that was told;
* is not asked at all for a while once it has not answered several times in a row, so that dead hosts cost the
  living ones neither time nor turns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from capfilt.stages.fetch.http.deadline import Deadline
from capfilt.stages.fetch.http.robots import Rules
from capfilt.stages.status import Failure

HOSTS_KEPT = 20_000  # about 3 KB each
RETRY_AFTER_LIMIT = 3600.0
"""Seconds of a Retry-After that are believed: one url with an absurd wish must not silence its host for a run."""


@dataclass(frozen=True, kw_only=True)
class HostLimits:
    """What one worker may ask of one host."""

    per_host: int
    interval: float
    """Seconds between two requests, 0 = no rate."""
    workers: int
    """Workers that share the host: a Crawl-delay counts as many times."""
    max_crawl_wait: float
    failures: int
    rest: float
    """Seconds without a request after so many failures in a row."""


@dataclass
class _Strikes:
    """Failures in a row of one port."""

    count: int = 0
    last: float = 0.0
    until: float = 0.0
    status: str = ""
    message: str = ""


@dataclass
class Host:
    """One host name: its limits, its pauses, its failures and its robots.txt by (scheme, port)."""

    limits: HostLimits
    users: int = 0
    """Urls that wait for the host or are under way to it."""
    used: float = field(default_factory=time.monotonic)
    robots: dict[tuple[str, int | None], Rules] = field(default_factory=dict)
    _delay: float = 0.0
    _crawl_at: float = 0.0
    _free_at: float = 0.0
    _paused_until: float = 0.0
    _pause_cause: tuple[str, str] = ("", "")
    _ports: dict[int | None, _Strikes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._connections = asyncio.Semaphore(self.limits.per_host)
        self._gate = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, clock: Deadline, turns: asyncio.Semaphore) -> AsyncIterator[None]:
        """Wait until the host may be asked, then for one of the worker's turns, and hold both.

        Whoever waits for a host holds no turn, so that a slow host takes nothing from the others. A pause the host
        asked for is the url's own time, waiting for others is not.

        Raises:
            Failure: http_429 or http_5xx, the host asked for a longer pause than the url has time.
        """
        self._check_pause(clock)
        async with self._connections:
            if self.limits.interval or self._paused_until > time.monotonic():
                # One at a time, so that requests leave as far apart as the rate says, however late their turn comes.
                async with self._gate:
                    await self._wait(clock)
                    await turns.acquire()
                    self._free_at = time.monotonic() + self.limits.interval
            else:
                await turns.acquire()
            try:
                yield
            finally:
                turns.release()

    async def crawl_turn(self) -> None:
        """Wait as long as the host's Crawl-delay demands.

        Raises:
            Failure: rate, it would be longer than `max_crawl_wait`.
        """
        if not self._delay:
            return
        now = time.monotonic()
        at = max(now, self._crawl_at)
        if at - now > self.limits.max_crawl_wait:
            raise Failure(
                "rate",
                f"robots.txt asks for {self._delay / self.limits.workers:g} s between requests "
                f"({self.limits.workers} workers share them): {at - now:.0f} s to wait",
                final=True,
            )
        self._crawl_at = at + self._delay
        await asyncio.sleep(at - now)

    def set_crawl_delay(self, seconds: float) -> None:
        """Crawl-delay of a robots.txt that has just come, for all workers together."""
        self._delay = max(self._delay, seconds * self.limits.workers)

    def pause(self, failure: Failure, seconds: float) -> None:
        """The host asked by `failure` not to be asked for so long."""
        until = time.monotonic() + min(seconds, RETRY_AFTER_LIMIT)
        if until > self._paused_until:
            self._paused_until, self._pause_cause = until, (failure.status, failure.message)

    def check_alive(self, port: int | None) -> None:
        """Whether it makes sense to ask.

        Raises:
            Failure: with the status of the last failure, once there were enough of them and while the rest lasts.
        """
        strikes = self._ports.get(port)
        if strikes is not None and strikes.until > time.monotonic():
            raise Failure(
                strikes.status,
                f"not asked, for {strikes.count} failures in a row: {strikes.message}",
                final=True,
            )

    def answered(self, port: int | None) -> None:
        """The host answered, whatever it said."""
        self._ports.pop(port, None)

    def failed(self, port: int | None, failure: Failure, started: float) -> None:
        """The host did not answer, or not before its pause was over, to a request that began at `started`.

        Requests that were under way together are one failure: a host that stumbles once is not dead.
        """
        strikes = self._ports.setdefault(port, _Strikes())
        if started < strikes.last and not failure.final:
            return
        now = time.monotonic()
        strikes.count, strikes.last = strikes.count + 1, now
        strikes.status, strikes.message = failure.status, failure.message
        if failure.final or strikes.count >= self.limits.failures:
            strikes.until = now + self.limits.rest

    def _check_pause(self, clock: Deadline) -> float:
        """Seconds of the pause that are left."""
        left = self._paused_until - time.monotonic()
        if left > 0 and left >= clock.remaining:
            status, message = self._pause_cause
            raise Failure(status, f"not asked, the host wants {left:.0f} s of peace: {message}", final=True)
        return max(0.0, left)

    async def _wait(self, clock: Deadline) -> None:
        while True:
            pause = self._check_pause(clock)
            wait = max(pause, self._free_at - time.monotonic())
            if wait <= 0:
                return
            clock.spend(pause)
            await asyncio.sleep(wait)


class Hosts:
    """The hosts of one worker.

    Args:
        limits: the same for every host.
    """

    def __init__(self, limits: HostLimits) -> None:
        self._limits = limits
        self._known: dict[str, Host] = {}

    def of(self, name: str) -> Host:
        """The host of that name (as `stages.fetch.http.addresses.normal_host` spells it)."""
        host = self._known.get(name)
        if host is None:
            host = self._known[name] = Host(self._limits)
        return host

    def forget_idle(self) -> None:
        """Keep the `HOSTS_KEPT` hosts last used; called where little is under way."""
        if len(self._known) > HOSTS_KEPT:
            idle = sorted((host.used, name) for name, host in self._known.items() if not host.users)
            for _, name in idle[: len(self._known) - HOSTS_KEPT]:
                del self._known[name]

    def forget_robots(self) -> None:
        """Drop all rules: they are asked for again where they are needed."""
        for host in self._known.values():
            host.robots.clear()
