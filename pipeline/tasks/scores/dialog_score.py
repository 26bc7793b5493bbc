"""Figures of visual dialog, as the VisDial challenge computes them: ranks of candidates, and NDCG.

Ties count against the model, as in retrieval: the answer comes after all candidates of its score, and within
a score candidates of less relevance come first. So a model that gives every candidate the same score gains
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

RECALL_AT = (1, 5, 10)


def rank_candidates(scores: Sequence[float], last: Sequence[float]) -> list[int]:
    """The rank of each candidate, from 1, by falling score.

    Args:
        scores: of each candidate; NaN counts as the highest.
        last: of each candidate how much it is wanted; among equal scores, the less wanted come first.
    """
    keys = [math.inf if math.isnan(score) else score for score in scores]
    order = sorted(range(len(keys)), key=lambda i: (-keys[i], last[i], i))
    ranks = [0] * len(keys)
    for rank, candidate in enumerate(order, 1):
        ranks[candidate] = rank
    return ranks


def rank_answer(scores: Sequence[float], answer: int) -> int:
    """The rank of the answer, from 1."""
    return rank_candidates(scores, [float(i == answer) for i in range(len(scores))])[answer]


def ndcg(scores: Sequence[float], relevance: Sequence[float]) -> float | None:
    """Normalized discounted cumulative gain of the first k candidates, where k candidates are relevant.

    Args:
        scores: of each candidate.
        relevance: of each candidate, from 0.

    Returns:
        0 to 1; None if no candidate is relevant.
    """
    k = sum(value > 0 for value in relevance)
    if not k:
        return None
    ranks = rank_candidates(scores, relevance)
    found = sum(
        value / math.log2(rank + 1) for value, rank in zip(relevance, ranks, strict=True) if rank <= k
    )
    best = sum(
        value / math.log2(rank + 1) for rank, value in enumerate(sorted(relevance, reverse=True)[:k], 1)
    )
    return found / best


def score_ranks(ranks: Sequence[int]) -> dict[str, float]:
    """Mean reciprocal rank and recalls in percent, and the mean rank.

    Args:
        ranks: of the answer to each question; at least one.
    """
    recalls = {f"r@{n}": 100 * fmean(rank <= n for rank in ranks) for n in RECALL_AT}
    return {"mrr": 100 * fmean(1 / rank for rank in ranks), **recalls, "mean_rank": fmean(ranks)}


def random_mrr(candidates: Sequence[int]) -> float:
    """The mean reciprocal rank of random ranks, in percent.

    Args:
        candidates: of each question, their number; at least one question.
    """
    return 100 * fmean(fmean(1 / rank for rank in range(1, count + 1)) for count in candidates)
