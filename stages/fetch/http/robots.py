"""robots.txt (RFC 9309): which urls of an origin may be requested, and how often.

protego parses the rules. Decisions where the RFC leaves a choice:

* a missing file, a client error (4xx except 429), a redirect that leads nowhere: every url is allowed;
* no response, 429 or 5xx: the rules are unknown, so nothing is requested. The rows fail with the status of
  that failure, not with `robots`, and robots.txt is requested again after a pause;
* rules are cached for a day; only the first 500 KiB are read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from protego import Protego

from capfilt.stages.status import Failure

PRODUCT_TOKEN = "capfilt"
"""Our name in robots.txt and X-Robots-Tag; our User-Agent starts with it."""
MAX_BYTES = 500 * 1024  # RFC 9309, 2.5
MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
CACHE_S = 24 * 3600  # RFC 9309, 2.4
RULES_UNKNOWN = frozenset({"dns", "connect", "timeout", "tls", "http_429", "http_5xx", "internal"})
"""Statuses of a robots.txt request after which the rules are unknown."""

_AGENT_LINE = re.compile(r"\s*user[- ]?agent\s*:?\s*([^#]*)", re.IGNORECASE)
# Lines that may stand between the agents of a group: comments, blank lines, and fields that are not rules.
_NOT_A_RULE = re.compile(r"\s*(#|$|site-?maps?\b|host\b)", re.IGNORECASE)


@dataclass(frozen=True)
class RobotsRules:
    """What an origin allows, and until when that is cached."""

    expires_at: float
    """`time.monotonic()` after which robots.txt is requested again."""
    parsed: Protego | None = None
    """None: every url is allowed."""
    crawl_delay: float = 0.0
    """Seconds."""
    size: int = 0
    """Characters of the groups that apply to us; their parsed form takes about 50 times as many bytes."""
    unknown: tuple[str, str] | None = None
    """(status, message) of the failure that left the rules unknown."""

    def check(self, url: str) -> None:
        """Return if `url` may be requested.

        Raises:
            Failure: `robots`, or the status of the failure that left the rules unknown.
        """
        if self.unknown is not None:
            status, message = self.unknown
            raise Failure(status, f"robots.txt is unavailable: {message}", final=True)
        if self.parsed is not None and not self.parsed.can_fetch(url, PRODUCT_TOKEN):
            raise Failure("robots", "robots.txt disallows the url")


def parse_rules(body: bytes) -> RobotsRules:
    """Parse the body of a robots.txt."""
    expires_at = time.monotonic() + CACHE_S
    text = body[:MAX_BYTES].decode("utf-8-sig", "replace")
    if len(body) >= MAX_BYTES:  # drop a truncated last line: a shorter path matches more urls
        text = text.rpartition("\n")[0]
    text = "\n".join(_relevant_lines(text))
    parsed = Protego.parse(text)
    delay = parsed.crawl_delay(PRODUCT_TOKEN) or 0.0
    return RobotsRules(expires_at, parsed, delay, len(text))


def rules_after_failure(failure: Failure, retry_after_s: float) -> RobotsRules:
    """Rules without a robots.txt: everything is allowed, or unknown for `retry_after_s` seconds."""
    if failure.status in RULES_UNKNOWN:
        return RobotsRules(time.monotonic() + retry_after_s, unknown=(failure.status, failure.message))
    return RobotsRules(time.monotonic() + CACHE_S)


def _relevant_lines(text: str) -> Iterator[str]:
    """Yield the lines of the groups that apply to us or to every agent.

    protego stores every rule once per agent of its group: a file of 15,000 agents over 15,000 rules would
    exhaust the memory. So the other agents are removed before parsing.
    """
    in_agent_lines = applies = False
    for line in text.splitlines():
        agent = _AGENT_LINE.match(line)
        if agent:
            applies = applies and in_agent_lines
            in_agent_lines = True
            name = agent[1].strip().lower().partition("/")[0]
            if name in (PRODUCT_TOKEN, "*"):
                applies = True
                yield f"User-agent: {name}"
        elif not _NOT_A_RULE.match(line):
            in_agent_lines = False
            if applies:
                yield line
