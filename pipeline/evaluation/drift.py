"""NEW FILE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

from capfilt.pipeline.evaluation.caption_metrics import tokenize


class TextDrift(TypedDict):
    """Signs of a captioner that narrows from round to round (shared/docs/blip.md, 6.7)."""

    texts: int
    distinct_1: float
    distinct_2: float
    mean_words: float
    duplicate_share: float


def text_drift(texts: Sequence[str]) -> TextDrift | None:
    """Diversity of a set of texts; None for an empty set.

    distinct_n = different n-grams / all n-grams (Li et al. 2016, arXiv 1510.03055); duplicate_share = share
    of texts that repeat another one word for word. Both fall or rise with the size of the set: compare sets
    of one size only.
    """
    if not texts:
        return None
    words = [tokenize(text) for text in texts]
    singles = [word for sentence in words for word in sentence]
    pairs = [pair for sentence in words for pair in pairwise(sentence)]
    return {
        "texts": len(texts),
        "distinct_1": len(set(singles)) / max(1, len(singles)),
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
        "mean_words": len(singles) / len(texts),
        "duplicate_share": 1 - len({" ".join(sentence) for sentence in words}) / len(texts),
    }
