"""robots.txt (RFC 9309): which urls of an origin may be asked for, and how often.

The rules themselves are read by protego. What the RFC leaves open is decided here:

* no such file, a refusal (4xx except 429), a redirect that leads nowhere: everything is allowed;
* no answer, 429 or 5xx: nothing is known, so nothing is asked; the rows end with the status of that failure, not
  with `robots`, and the file is asked for again after a pause;
* rules are kept for a day, those of the first 500 KiB.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from protego import Protego

from capfilt.stages.status import Failure

TOKEN = "capfilt"
"""Our product token: what robots.txt and X-Robots-Tag call us, and what our User-Agent starts with."""
SIZE_LIMIT = 500 * 1024  # bytes that are read (RFC 9309, 2.5)
REDIRECTS = 5  # that are followed (2.3.1.2)
KEPT_SECONDS = 24 * 3600  # (2.4)
UNKNOWN = frozenset({"dns", "connect", "timeout", "tls", "http_429", "http_5xx", "internal"})
"""Failures after which it is unknown what is allowed."""

_AGENT_LINE = re.compile(r"\s*user[- ]?agent\s*:?\s*([^#]*)", re.IGNORECASE)
_NO_RULE = re.compile(r"\s*(#|$|site-?maps?\b|host\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Rules:
    """What an origin allows, until when that is believed."""

    until: float
    """`time.monotonic()` after which it is asked for again."""
    parsed: Protego | None = None
    """None: everything is allowed."""
    delay: float = 0.0
    """Crawl-delay, seconds."""
    size: int = 0
    """Characters of the groups that concern us: their parsed form takes about 50 times as many bytes."""
    unknown: tuple[str, str] | None = None
    """(status, message) of why the file could not be had."""

    def check(self, url: str) -> None:
        """Whether `url` may be asked for.

        Raises:
            Failure: robots, or why that is unknown.
        """
        if self.unknown is not None:
            status, message = self.unknown
            raise Failure(status, f"robots.txt: {message}", final=True)
        if self.parsed is not None and not self.parsed.can_fetch(url, TOKEN):
            raise Failure("robots", "robots.txt disallows the url")


def rules_of(body: bytes) -> Rules:
    """Rules of a robots.txt that was answered with `body`."""
    until = time.monotonic() + KEPT_SECONDS
    text = body[:SIZE_LIMIT].decode("utf-8-sig", "replace")
    if len(body) >= SIZE_LIMIT:  # a rule that was cut would mean more than it says
        text = text.rpartition("\n")[0]
    text = "\n".join(_for_us(text))
    parsed = Protego.parse(text)
    delay = parsed.crawl_delay(TOKEN) or 0.0
    return Rules(until, parsed, delay, len(text))


def rules_without(failure: Failure, pause: float) -> Rules:
    """Rules where no robots.txt could be had: none, or for `pause` seconds nobody knows."""
    if failure.status in UNKNOWN:
        return Rules(time.monotonic() + pause, unknown=(failure.status, failure.message))
    return Rules(time.monotonic() + KEPT_SECONDS)


def _for_us(text: str) -> Iterator[str]:
    """Lines of the groups that name us or everybody.

    Left out for their own sake and for safety: protego keeps every rule once for each agent of its group, so that
    a file of 15,000 agents over 15,000 rules would fill any memory.
    """
    among_agents = ours = False
    for line in text.splitlines():
        agent = _AGENT_LINE.match(line)
        if agent:
            ours = ours and among_agents
            among_agents = True
            name = agent[1].strip().lower().partition("/")[0]
            if name in (TOKEN, "*"):
                ours = True
                yield f"User-agent: {name}"
        elif not _NO_RULE.match(line):
            among_agents = False
            if ours:
                yield line
