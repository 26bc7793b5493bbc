"""Diversity of a round's texts. It falls from round to round when a captioner collapses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

from capfilt.pipeline.evaluation.words import split_words


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
