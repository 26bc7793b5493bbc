"""Diversity of a round's texts. It falls from round to round when a captioner collapses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypedDict

from capfilt.pipeline.evaluation.words import split_words

LEAST_NOISE = 0.1
"""A smaller noise ratio of the captions is an alarm. In the paper (arXiv 2201.12086, table 4) the filter
drops 25 % of them, and 8 % if it shares its weights with the captioner."""
MAX_NOISE_FALL = 0.5
"""Relative fall of the noise ratio of the captions from one round to the next; from 25 to 8 % it is 0.68."""
MAX_FALL = 0.2
"""Relative fall of the share of different words, or of different pairs, from one round to the next."""
MAX_RISE = 0.05
"""Rise of the share of repeated texts."""
MAX_LENGTH_CHANGE = 0.2
"""Relative change of the words per text."""


class TextDrift(TypedDict):
    """Diversity of a set of texts; see `compute_text_drift`."""

    texts: int
    distinct_1: float
    distinct_2: float
    mean_words: float
    duplicate_share: float


def compute_text_drift(texts: Sequence[str]) -> TextDrift | None:
    """Compute the diversity of a set of texts; None for an empty set.

    distinct_n is the number of different n-grams divided by the number of n-grams (Li et al. 2016, arXiv
    1510.03055). duplicate_share is the share of texts that repeat another text word for word. Both depend on
    the size of the set, so only sets of the same size can be compared.
    """
    if not texts:
        return None
    sentences = [split_words(text) for text in texts]
    words = [word for sentence in sentences for word in sentence]
    pairs = [pair for sentence in sentences for pair in pairwise(sentence)]
    return {
        "texts": len(texts),
        "distinct_1": len(set(words)) / max(1, len(words)),
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
        "mean_words": len(words) / len(texts),
        "duplicate_share": 1 - len({" ".join(sentence) for sentence in sentences}) / len(texts),
    }


def find_alarms(drift: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[str]:
    """Signs of a captioner that collapses, or of a filter that agrees with its captioner.

    Args:
        drift: content of the drift.json of a round.
        before: that of the round before, None if there is none.

    Returns:
        One sentence per sign, on synthetic texts only.
    """
    found = []
    kept = drift["acceptance"].get("synthetic")
    if kept is not None and 1 - kept < LEAST_NOISE:
        found.append(f"The filter keeps {kept:.1%} of the captions: it may agree with its captioner.")
    before = before or {}
    kept_before = (before.get("acceptance") or {}).get("synthetic")
    if kept is not None and kept_before is not None and 1 - kept < (1 - kept_before) * (1 - MAX_NOISE_FALL):
        found.append(
            f"The filter drops {1 - kept:.1%} of the captions, after {1 - kept_before:.1%} in the round "
            f"before: it may agree with its captioner."
        )
    now = drift["texts"].get("synthetic")
    then = (before.get("texts") or {}).get("synthetic")
    if not now or not then:
        return found
    for key, name in (("distinct_1", "words"), ("distinct_2", "pairs of words")):
        if now[key] < then[key] * (1 - MAX_FALL):
            found.append(
                f"The share of different {name} in the captions has fallen "
                f"from {then[key]:.2%} to {now[key]:.2%}."
            )
    if now["duplicate_share"] > then["duplicate_share"] + MAX_RISE:
        found.append(
            f"The share of repeated captions has risen from {then['duplicate_share']:.1%} "
            f"to {now['duplicate_share']:.1%}."
        )
    if abs(now["mean_words"] - then["mean_words"]) > then["mean_words"] * MAX_LENGTH_CHANGE:
        found.append(
            f"The words per caption have changed from {then['mean_words']:.1f} to {now['mean_words']:.1f}."
        )
    return found
