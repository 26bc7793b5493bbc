"""How well a filter finds planted noise: ROC AUC of its scores, precision and recall of its verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MATCHING = ("clean", "incomplete")
"""Values of the truth column for a text that describes its image, wholly or in part; any other value names a
kind of noise."""


@dataclass(frozen=True)
class FilterQuality:
    """How well a filter finds planted noise; every value in [0, 1]."""

    auc: float
    precision: float | None
    """None when nothing was dropped."""
    recall: float


def compute_filter_quality(
    truth: Sequence[str | None], itm_prob: Sequence[float | None], kept: Sequence[bool | None]
) -> FilterQuality | None:
    """Compare a filter with planted noise. The positive class is noise, and its score is 1 - itm_prob.

    The AUC is computed from the scores. Precision and recall are computed from the stored verdicts, where a
    dropped text counts as detected noise. Texts without a truth or without a verdict are left out.

    Args:
        truth: one of `MATCHING`, a kind of noise, or None when unknown; one value per text, like the other
            arguments.
        itm_prob: score of the filter, None when the text was not judged.
        kept: verdict, None when the text was not judged.

    Returns:
        None unless the texts contain both noise and clean ones.
    """
    judged = [
        (label not in MATCHING, score, keep)
        for label, score, keep in zip(truth, itm_prob, kept, strict=True)
        if label is not None and score is not None and keep is not None
    ]
    noise = np.array([row[0] for row in judged], dtype=bool)
    if not noise.any() or noise.all():
        return None
    dropped = ~np.array([row[2] for row in judged], dtype=bool)
    hits = int((noise & dropped).sum())
    return FilterQuality(
        auc=compute_roc_auc(noise, 1 - np.array([row[1] for row in judged], dtype=np.float64)),
        precision=hits / int(dropped.sum()) if dropped.any() else None,
        recall=hits / int(noise.sum()),
    )


def compute_roc_auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Probability that a positive scores higher than a negative; a tie counts one half (Mann-Whitney U).

    Args:
        positive: [n] bool, with both classes present.
        score: [n], higher = more likely positive.
    """
    _, group, sizes = np.unique(score, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(sizes)
    mean_rank = last_rank - (sizes - 1) / 2  # ranks start at 1; equal scores share their mean rank
    positives = int(positive.sum())
    rank_sum = float(mean_rank[group][positive].sum())
    wins = rank_sum - positives * (positives + 1) / 2
    return wins / (positives * (len(positive) - positives))
