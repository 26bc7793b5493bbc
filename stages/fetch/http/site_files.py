"""robots.txt and tdmrep.json of the hosts: requested once, shared by all urls that wait for them, cached.

The caches of all hosts together are bounded: beyond `MAX_CHARS` characters of rules all are forgotten and
requested again where they are needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from yarl import URL

from capfilt.stages.fetch.http import robots
from capfilt.stages.fetch.http.hosts import HostTable
from capfilt.stages.fetch.http.optout import TdmRules, parse_tdm_file
from capfilt.stages.fetch.http.robots import RobotsRules
from capfilt.stages.status import Failure

MAX_CHARS = 1_000_000
"""Characters of rules that are cached for all hosts together, see `RobotsRules.size`."""
LONG_RULES_CHARS = 10_000
"""Longer rules are matched in a thread: 500 KiB of wildcards against a long url take seconds."""
TDM_PATH = ".well-known/tdmrep.json"

Rules = TypeVar("Rules", RobotsRules, TdmRules)
Address = TypeVar("Address", str, URL)
Answer = TypeVar("Answer")


class SiteFiles:
    """The rules of the sites.

    Args:
        hosts: hold the caches.
        download: downloads a file of a site without checking its robots.txt, cut at the byte limit.
        retry_after_s: seconds after which a file whose request failed is requested again.
    """

    def __init__(
        self, hosts: HostTable, download: Callable[[URL], Awaitable[bytes]], retry_after_s: float
    ) -> None:
        self._hosts, self._download, self._retry_after_s = hosts, download, retry_after_s
        self._requests: dict[URL, asyncio.Task[Any]] = {}
        self._chars = 0

    async def robots_of(self, url: URL) -> RobotsRules:
        """The rules of the robots.txt of a url's origin."""
        return await self._share(url.origin() / "robots.txt", self._download_robots)

    async def tdm_of(self, url: URL) -> TdmRules:
        """The rules of the tdmrep.json of a url's origin; none if the site has no such file."""
        return await self._share(url.origin().joinpath(*TDM_PATH.split("/")), self._download_tdm)

    async def _share(self, url: URL, download: Callable[[URL], Coroutine[Any, Any, Rules]]) -> Rules:
        task: asyncio.Task[Rules] | None = self._requests.get(url)
        if task is None:
            task = self._requests[url] = asyncio.create_task(download(url))
            task.add_done_callback(lambda _: self._requests.pop(url, None))
        return await asyncio.shield(task)

    async def _download_robots(self, url: URL) -> RobotsRules:
        async with self._hosts.checked_out(url) as host:
            try:
                rules = await asyncio.to_thread(robots.parse_rules, await self._download(url))
            except Failure as failure:
                rules = robots.rules_after_failure(failure, self._retry_after_s)
            self._count(rules.size)
            host.robots[(url.scheme, url.port)] = rules
            host.set_crawl_delay(rules.crawl_delay)
        return rules

    async def _download_tdm(self, url: URL) -> TdmRules:
        async with self._hosts.checked_out(url) as host:
            try:
                body = await self._download(url)
                rules = await asyncio.to_thread(parse_tdm_file, body, robots.CACHE_S)
            except Failure as failure:
                is_unknown = failure.status in robots.RULES_UNKNOWN
                rules = parse_tdm_file(b"[]", self._retry_after_s if is_unknown else robots.CACHE_S)
            self._count(rules.size)
            host.tdm[(url.scheme, url.port)] = rules
        return rules

    def _count(self, size: int) -> None:
        self._chars += size
        if self._chars > MAX_CHARS:
            self._hosts.clear_rules()
            self._chars = size


async def match_rules(
    rules: RobotsRules | TdmRules, judge: Callable[[Address], Answer], url: Address
) -> Answer:
    """What rules say about a url; long ones are matched in a thread."""
    return await asyncio.to_thread(judge, url) if rules.size > LONG_RULES_CHARS else judge(url)
