"""Signals with which a site opts out of the training of models: in headers, and in its tdmrep.json.

* X-Robots-Tag: directives such as noai, for all crawlers or for this one;
* Content-Usage (draft-ietf-aipref-attach and -vocab): `train-ai=n`, a structured field; also a rule of
  robots.txt (`robots.py`);
* TDM Reservation Protocol of the W3C community group: the header `tdm-reservation: 1`, which outranks the
  file /.well-known/tdmrep.json.

What cannot be parsed says nothing, as the drafts ask.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, unquote

import http_sf
import msgspec
from http_sf.types import Token
from yarl import URL

from capfilt.stages.status import Failure

Signal = Literal["content-usage", "content-signal", "tdm-reservation", "tdmrep.json"]
HONORED: tuple[Signal, ...] = ("content-usage", "content-signal", "tdm-reservation")
"""Signals that are honored by default: those that cost no request of their own."""
X_ROBOTS_TAG = "x-robots-tag"
MAX_PREFERENCE_CHARS = 4_096
"""A longer statement of preferences says nothing."""
MAX_TDM_RULES = 1_000
"""Rules of a tdmrep.json beyond these are ignored."""
MAX_TDM_PATTERN_CHARS = 2_048
"""A longer pattern counts by its beginning."""

# Directives with a value after a colon; for every other word a colon ends the name of a user agent.
_VALUED_DIRECTIVES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"[a-z][a-z0-9._-]*(?:/[a-z0-9.]*)?|\*")
_UNRESERVED = "/?:@!$&'()*+,;=~-._%"
"""Characters that stay as they are when a path is brought into one form."""


@dataclass
class OptOuts:
    """The signals that spoke against the use of one url.

    Args:
        honored: signals on which the url fails; the others are only noted.
    """

    honored: Collection[str]
    found: dict[str, str] = field(default_factory=dict)
    """{signal: what it says}."""
    is_reserved: bool = False
    """The tdmrep.json of the site reserves the rights, unless the response says otherwise."""

    def note(self, signal: str, message: str) -> None:
        """A signal spoke against the use."""
        self.found.setdefault(signal, message)

    def check(self) -> None:
        """Return unless a signal that is honored spoke.

        Raises:
            Failure: optout.
        """
        for signal, message in self.found.items():
            if signal in self.honored:
                raise Failure("optout", message)


def find_optout(headers: Iterable[str], directives: Collection[str], product_token: str) -> str | None:
    """Return the first of `directives` that a response addresses to this or to all crawlers, or None.

    `otherbot: noindex, noai` addresses both directives to otherbot only: an agent's name holds until the next
    agent's name or the end of the header.

    Args:
        headers: values of all X-Robots-Tag headers of the response.
        directives: the directives that opt out, in lower case.
        product_token: the product token of our User-Agent, in lower case.
    """
    for header in headers:
        applies = True
        for part in header.lower().split(","):
            directive = part.strip()
            agent, colon, rest = directive.partition(":")
            agent = agent.strip()
            if colon and agent not in _VALUED_DIRECTIVES and _AGENT.fullmatch(agent):
                applies = agent.partition("/")[0] in (product_token, "*")
                directive = rest.strip()
            if applies and directive in directives:
                return directive
    return None


def usage_forbids_training(preferences: str) -> bool:
    """Whether a statement of preferences (Content-Usage) says `train-ai=n`.

    Args:
        preferences: the value of a rule, or of all headers of a response, joined by commas.
    """
    if len(preferences) > MAX_PREFERENCE_CHARS:
        return False
    try:
        parsed = http_sf.parse(preferences.strip().encode("ascii"), tltype="dictionary")
    except ValueError:  # also that of characters beyond ASCII
        return False
    value = parsed.get("train-ai") if isinstance(parsed, dict) else None
    value = value[0] if isinstance(value, tuple) else value
    return isinstance(value, Token) and str(value) == "n"


def signal_forbids_training(signals: str) -> bool:
    """Whether the value of a Content-Signal says `ai-train=no`; case and spaces do not matter."""
    pairs = (part.partition("=") for part in signals.lower().split(","))
    return any(name.strip() == "ai-train" and value.strip() == "no" for name, _, value in pairs)


def read_reservation(headers: Iterable[str]) -> bool | None:
    """What the tdm-reservation headers of a response say: reserved, not reserved, or nothing."""
    values = {value.strip() for value in headers}
    return True if "1" in values else False if "0" in values else None


@dataclass(frozen=True)
class TdmRules:
    """The rules of a tdmrep.json, and until when they are cached."""

    expires_at: float
    """`time.monotonic()` after which the file is requested again."""
    rules: tuple[tuple[str, bool], ...] = ()
    """(pattern of paths, whether rights are reserved), in the order of the file."""

    @property
    def size(self) -> int:
        """Characters of the patterns."""
        return sum(len(pattern) + 1 for pattern, _ in self.rules)

    def reserves(self, url: URL) -> bool:
        """Whether the first rule that matches the path of a url reserves the rights."""
        path = _normalize(url.raw_path_qs)
        return next((reserved for pattern, reserved in self.rules if _matches(pattern, path)), False)


def parse_tdm_file(body: bytes, cache_s: float) -> TdmRules:
    """Parse a tdmrep.json; objects that are no rules are passed over, and a file that is no list has none."""
    expires_at = time.monotonic() + cache_s
    try:
        items = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return TdmRules(expires_at)
    rules = [rule for item in items if (rule := _tdm_rule(item))] if isinstance(items, list) else []
    return TdmRules(expires_at, tuple(rules[:MAX_TDM_RULES]))


def _tdm_rule(item: Any) -> tuple[str, bool] | None:
    if not isinstance(item, dict):
        return None
    location, reservation = item.get("location"), item.get("tdm-reservation")
    value = str(reservation).strip() if isinstance(reservation, int | str) else ""
    if not isinstance(location, str) or value not in ("0", "1"):
        return None
    pattern = _normalize(location.strip())
    if len(pattern) > MAX_TDM_PATTERN_CHARS:
        pattern = pattern[:MAX_TDM_PATTERN_CHARS].rstrip("%0123456789ABCDEF")
    return (pattern if pattern.startswith(("/", "*")) else f"/{pattern}"), value == "1"


def _normalize(path: str) -> str:
    """A path in one form: escapes of unreserved characters decoded, characters beyond ASCII escaped."""

    def decode(match: re.Match[str]) -> str:
        character = unquote(match[0])
        return (
            character
            if character.isascii() and (character.isalnum() or character in "-._~")
            else match[0].upper()
        )

    return re.sub("%[0-9A-Fa-f]{2}", decode, quote(path, safe=_UNRESERVED, errors="replace"))


def _matches(pattern: str, path: str) -> bool:
    """Whether a path begins with a pattern, in which `*` stands for any characters and a final `$` for the
    end. Takes time in proportion to the length of both."""
    is_whole = pattern.endswith("$")
    first, *others = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    place = len(first)
    last = others.pop() if others and is_whole else None
    for piece in others:
        found = path.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece)
    if last is not None:
        return len(path) - len(last) >= place and path.endswith(last)
    return not is_whole or place == len(path)
