"""NEW FILE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

CLEAN = "clean"
"""Value of the truth column for a text that describes its image; any other value names a kind of noise."""


class FilterQuality(TypedDict):
    """How well a filter finds planted noise; every value in [0, 1]."""

    auc: float
    precision: float | None
    recall: float


def filter_quality(
    truth: Sequence[str | None], itm_prob: Sequence[float | None], kept: Sequence[bool | None]
) -> FilterQuality | None:
    """How well a filter finds planted noise. Positive class: noise; its score: 1 - itm_prob.

    AUC is over the scores; precision and recall are of the verdicts as they were given (dropped = called
    noise). Texts without a truth or a verdict do not count.

    Returns:
        None where there is no truth, or where all texts are noise or all are clean. Precision is None when
        nothing was dropped.
    """
    judged = [
        (label != CLEAN, score, keep)
        for label, score, keep in zip(truth, itm_prob, kept, strict=True)
        if label is not None and score is not None and keep is not None
    ]
    noise = np.array([row[0] for row in judged], dtype=bool)
    if not noise.any() or noise.all():
        return None
    dropped = ~np.array([row[2] for row in judged], dtype=bool)
    hits = int((noise & dropped).sum())
    return {
        "auc": area_under_curve(noise, 1 - np.array([row[1] for row in judged], dtype=np.float64)),
        "precision": hits / int(dropped.sum()) if dropped.any() else None,
        "recall": hits / int(noise.sum()),
    }


def area_under_curve(positive: np.ndarray, score: np.ndarray) -> float:
    """Probability that a positive scores above a negative, a tie counting one half (Mann-Whitney).

    Args:
        positive: [n] bool, with both classes present.
        score: [n], higher = more likely positive.
    """
    _, group, sizes = np.unique(score, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(sizes)
    middle_rank = last_rank - (sizes - 1) / 2  # ranks from 1; equal scores share their mean rank
    positives = int(positive.sum())
    rank_sum = float(middle_rank[group][positive].sum())
    wins = rank_sum - positives * (positives + 1) / 2
    return wins / (positives * (len(positive) - positives))
