"""robots.txt (RFC 9309): which urls of an origin may be requested, and how often.

protego parses the rules. Decisions where the RFC leaves a choice:

* a missing file, a client error (4xx except 429), a redirect that leads nowhere: every url is allowed;
* no response, 429 or 5xx: the rules are unknown, so nothing is requested. The rows fail with the status of
  that failure, not with `robots`, and robots.txt is requested again after a pause;
* rules are cached for a day; only the first 500 KiB are read;
* Content-Usage (draft-ietf-aipref-attach) and Content-Signal rules of our group say for which paths a site
  opts out of training; they allow and disallow no request;
* matching a url costs a bounded time: beyond `MAX_WILDCARD_RULES` rules with wildcards in a group, and
  beyond `MAX_RULE_CHARS` in a rule, a Disallow counts by its beginning, whatever Allow says, and an Allow is
  ignored. So nothing is requested that the whole file would disallow.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from protego import Protego

from capfilt.stages.fetch.http.optout import signal_forbids_training, usage_forbids_training
from capfilt.stages.status import Failure

PRODUCT_TOKEN = "capfilt"
"""Our name in robots.txt and X-Robots-Tag; our User-Agent starts with it."""
MAX_BYTES = 500 * 1024  # RFC 9309, 2.5
MAX_WILDCARD_RULES = 2_000
"""A file of 500 KiB has room for 40,000, which cost a second per url of 8,000 characters. Other rules are
looked up all at once."""
MAX_RULE_CHARS = 2_048
MAX_REDIRECTS = 5  # RFC 9309, 2.3.1.2
CACHE_S = 24 * 3600  # RFC 9309, 2.4
RULES_UNKNOWN = frozenset({"dns", "connect", "timeout", "tls", "http_429", "http_5xx", "internal"})
"""Statuses of a robots.txt request after which the rules are unknown."""

_AGENT_LINE = re.compile(r"\s*user[- ]?agent\s*:?\s*([^#]*)", re.IGNORECASE)
_AGENT = "User-agent: "
_RULE = re.compile(r"\s*(?P<field>allow|dis\w+|diasllow)\s*(:\s*|\s)(?P<path>.*)", re.IGNORECASE)
"""A rule, with the misspellings that protego reads as Disallow."""
_LAST_ESCAPES = re.compile(r"(%[0-9A-Fa-f]{0,2})+$")
"""Escapes at the end of a text that was cut, perhaps within an escape or a character."""
_PREFERENCES = (
    ("content-usage", "Content-Usage: train-ai=n", usage_forbids_training),
    ("content-signal", "Content-Signal: ai-train=no", signal_forbids_training),
)
"""Field of robots.txt, what it says against training, and whether a value does."""
_END_OF_AGENTS = "Disallow:"
"""A rule that says nothing, so that a group whose rules were left out is not joined to the next."""
# Lines that may stand between the agents of a group: comments, blank lines, and fields that are not rules.
_NOT_A_RULE = re.compile(r"\s*(#|$|site-?maps?\b|host\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Preference:
    """The urls of an origin for which robots.txt has one kind of signal against the training of models."""

    signal: str
    text: str
    """The signal as a line of robots.txt."""
    rules: tuple[Protego, ...]
    """Disallow the urls."""
    size: int
    """Characters of the rules."""

    def applies_to(self, url: str) -> bool:
        """Whether the signal is there for a url."""
        return not all(rules.can_fetch(url, PRODUCT_TOKEN) for rules in self.rules)


@dataclass(frozen=True)
class RobotsRules:
    """What an origin allows, and until when that is cached."""

    expires_at: float
    """`time.monotonic()` after which robots.txt is requested again."""
    parsed: Protego | None = None
    """None: every url is allowed."""
    beyond_limits: Protego | None = None
    """The beginnings of the Disallow rules beyond the limits; they outrank `parsed`."""
    crawl_delay: float = 0.0
    """Seconds."""
    size: int = 0
    """Characters of the groups that apply to us; their parsed form takes about 50 times as many bytes."""
    unknown: tuple[str, str] | None = None
    """(status, message) of the failure that left the rules unknown."""
    preferences: tuple[Preference, ...] = ()
    """Rules that speak against the training of models on some urls."""

    def check(self, url: str) -> None:
        """Return if `url` may be requested.

        Raises:
            Failure: `robots`, or the status of the failure that left the rules unknown.
        """
        if self.unknown is not None:
            status, message = self.unknown
            raise Failure(status, f"robots.txt is unavailable: {message}", final=True)
        for rules in (self.beyond_limits, self.parsed):
            if rules is not None and not rules.can_fetch(url, PRODUCT_TOKEN):
                raise Failure("robots", "robots.txt disallows the url")

    def judge(self, url: str) -> list[tuple[str, str]]:
        """The signals that speak against the training of models on a url that may be requested.

        Returns:
            (name of the signal, what robots.txt says) of each.

        Raises:
            Failure: see `check`.
        """
        self.check(url)
        return [
            (each.signal, f"robots.txt: {each.text}") for each in self.preferences if each.applies_to(url)
        ]


def parse_rules(body: bytes) -> RobotsRules:
    """Parse the body of a robots.txt."""
    expires_at = time.monotonic() + CACHE_S
    text = body[:MAX_BYTES].decode("utf-8-sig", "replace")
    if len(body) >= MAX_BYTES:  # drop a truncated last line: a shorter path matches more urls
        text = text.rpartition("\n")[0]
    relevant = list(_relevant_lines(text))
    lines, beginnings = _apply_limits(relevant)
    parsed = Protego.parse("\n".join(lines))
    preferences = tuple(_find_preferences(_lines_of_our_group(relevant)))
    return RobotsRules(
        expires_at,
        parsed,
        Protego.parse("\n".join(beginnings)) if beginnings else None,
        parsed.crawl_delay(PRODUCT_TOKEN) or 0.0,
        size=sum(len(line) + 1 for line in (*lines, *beginnings)) + sum(each.size for each in preferences),
        preferences=preferences,
    )


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
                yield f"{_AGENT}{name}"
        elif not _NOT_A_RULE.match(line):
            in_agent_lines = False
            if applies:
                yield line


def _lines_of_our_group(lines: Iterable[str]) -> list[str]:
    """The rules of the groups for us; those of the groups for every agent if there is none for us."""
    found: dict[str, list[str]] = {}
    agents: set[str] = set()
    in_agent_lines = False
    for line in lines:
        if line.startswith(_AGENT):
            agents = agents if in_agent_lines else set()
            agents.add(line.removeprefix(_AGENT))
        else:
            for agent in agents:
                found.setdefault(agent, []).append(line)
        in_agent_lines = line.startswith(_AGENT)
        for agent in agents:
            found.setdefault(agent, [])
    return found.get(PRODUCT_TOKEN, found.get("*", []))


def _find_preferences(lines: Sequence[str]) -> Iterator[Preference]:
    """The signals against training, as rules that disallow the urls for which they are there.

    The longest path decides, as for Allow and Disallow; of rules with one path the one against training.
    """
    for field, text, forbids in _PREFERENCES:
        values: dict[str, bool] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon and name.strip().lower() == field:
                value = value.partition("#")[0].strip()
                path, rest = "", value
                if value.startswith("/"):
                    path, *others = value.split(maxsplit=1)
                    rest = others[0] if others else ""
                values[path] = values.get(path, False) or forbids(rest)
        if "/" in values:
            values.pop("", None)  # every path begins with "/", so a rule without a path never decides
        if any(values.values()):
            rules = [f"{'Disallow' if is_no else 'Allow'}: {path or '/'}" for path, is_no in values.items()]
            kept, beginnings = _apply_limits([f"{_AGENT}*", *rules])
            parsed = [Protego.parse("\n".join(part)) for part in (kept, beginnings) if part]
            yield Preference(field, text, tuple(parsed), sum(len(rule) + 1 for rule in rules))


def _apply_limits(lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """Divide the lines into those within the limits, and the beginnings of the Disallow rules beyond them.

    Both have the lines that name agents, because a group without rules is not the same as no group.
    """
    kept: list[str] = []
    beginnings: list[str] = []
    wildcards: Counter[str] = Counter()
    agents: list[str] = []
    for line in lines:
        if line.startswith(_AGENT):
            is_new_group = bool(kept) and not kept[-1].startswith(_AGENT)
            agents = [line] if is_new_group else [*agents, line]
            kept.append(line)
            beginnings.append(line)
            continue
        if kept[-1].startswith(_AGENT):
            kept.append(_END_OF_AGENTS)
            beginnings.append(_END_OF_AGENTS)
        rule = _RULE.match(line)
        path = rule["path"].partition("#")[0].strip() if rule is not None else line
        has_wildcard = rule is not None and ("*" in path or path.endswith("$"))
        if has_wildcard:
            wildcards.update(agents)
        too_many = has_wildcard and any(wildcards[agent] > MAX_WILDCARD_RULES for agent in agents)
        if len(path) <= MAX_RULE_CHARS and not too_many:
            kept.append(line)
        elif rule is not None and rule["field"].lower().startswith("d"):
            beginnings.append(f"Disallow: {_beginning(path)}")
    return kept, beginnings if any(line.startswith("Disallow: ") for line in beginnings) else []


def _beginning(path: str) -> str:
    """The literal text with which a rule begins, so that it matches at least what the rule matches."""
    text = path.partition("*")[0][:MAX_RULE_CHARS]
    return _LAST_ESCAPES.sub("", text).rstrip("$") or "/"
