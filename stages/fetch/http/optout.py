"""X-Robots-Tag: which directives a response addresses to this crawler."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# Directives with a value after a colon; for every other word a colon ends the name of a user agent.
_VALUED_DIRECTIVES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"[a-z][a-z0-9._-]*(?:/[a-z0-9.]*)?|\*")


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
