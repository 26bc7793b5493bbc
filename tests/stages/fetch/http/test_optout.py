"""X-Robots-Tag: directives for all crawlers, for this one, and for others."""

import pytest

from capfilt.stages.fetch.http.optout import find_optout

DIRECTIVES = ("noai", "noindex", "none")


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        ([""], None),
        (["nofollow"], None),
        (["NoAI"], "noai"),
        (["nofollow , noindex"], "noindex"),
        (["nofollow", "none"], "none"),
        (["capfilt: noai"], "noai"),
        (["CapFilt/2.0: noai"], "noai"),
        (["*: noai"], "noai"),
        (["capfilt2: noai"], None),
        (["otherbot: noindex, noai"], None),
        (["otherbot: noindex", "noai"], "noai"),
        (["otherbot: noindex, capfilt: noai"], "noai"),
        (["capfilt: nofollow, otherbot: noai"], None),
        (["max-snippet: 5, noai"], "noai"),
        (["max-image-preview: none"], None),
        (["unavailable_after: 25 Jun 2033 15:00:00 PST, none"], "none"),
        (["noaimage"], None),
    ],
)
def test_first_directive_that_applies(headers: list[str], found: str | None) -> None:
    assert find_optout(headers, DIRECTIVES, "capfilt") == found
