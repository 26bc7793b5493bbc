"""Servers with several host names, for the tests of host limits and robots.txt."""

from collections.abc import AsyncIterator
from typing import Any

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from tests.stages.fetch.hostile_server import HostileServer, fetch_config, http_response, make_batch

HOSTS = ("a.test", "b.test", "c.test", "www.c.test")
"""Names that the fixture `site_names` resolves to 127.0.0.1."""


def site_config(**changes: Any) -> FetchConfig:
    return fetch_config(**({"allow_private": HOSTS, "deadline_s": 5.0} | changes))


def statuses(stage: Fetch, *urls: str) -> list[str]:
    return stage(make_batch(*urls))["status"].to_pylist()


class Site(HostileServer):
    """Sends the given robots.txt for each host (a=..., b=...; 404 by default), and images for other paths."""

    def __init__(self, **robots: bytes) -> None:
        super().__init__()
        self.robots = robots

    def respond(self, path: str, count: int, host: str) -> bytes | AsyncIterator[bytes]:
        if path == "/robots.txt":
            return self.robots.get(host.partition(".")[0], http_response(status="404 None"))
        return super().respond(path, count, host)
