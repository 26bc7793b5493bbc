"""X-Robots-Tag: what an answer's headers forbid, whoever they are addressed to."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# Directives that have a value of their own after a colon, which is thus no user agent.
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"[a-z][a-z0-9._-]*(?:/[a-z0-9.]*)?|\*")


def opted_out(headers: Iterable[str], directives: Collection[str], token: str) -> str | None:
    """The first directive among `directives` that an answer addresses to everybody or to us.

    `otherbot: noindex, noai` speaks to otherbot alone, until another agent is named or the header ends.

    Args:
        headers: the values of all X-Robots-Tag headers of the answer.
        directives: what counts, in lower case.
        token: the product token of our User-Agent, in lower case.
    """
    for header in headers:
        ours = True
        for part in header.lower().split(","):
            word = part.strip()
            agent, colon, rest = word.partition(":")
            agent = agent.strip()
            if colon and agent not in _VALUED and _AGENT.fullmatch(agent):
                ours = agent.partition("/")[0] in (token, "*")
                word = rest.strip()
            if ours and word in directives:
                return word
    return None
