"""Ranks and NDCG of the VisDial challenge: cases by hand, and a computation over all orders of ties."""

import math
from itertools import permutations

import numpy as np
import pytest

from capfilt.pipeline.tasks.scores.dialog_score import (
    ndcg,
    random_mrr,
    rank_answer,
    rank_candidates,
    score_ranks,
)


@pytest.mark.parametrize(
    ("scores", "answer", "rank"),
    [([0.1, 0.9, 0.5], 1, 1), ([0.1, 0.9, 0.5], 0, 3), ([1.0, 1.0, 1.0], 0, 3), ([2.0, 1.0, 1.0], 1, 3),
     ([math.nan, 1.0], 1, 2), ([-math.inf, -math.inf], 0, 2)],
)  # fmt: skip
def test_the_answer_comes_after_all_candidates_of_its_score(scores, answer, rank):
    assert rank_answer(scores, answer) == rank


def test_figures_of_ranks():
    assert score_ranks([1, 2, 6, 20]) == pytest.approx(
        {"mrr": 100 * (1 + 0.5 + 1 / 6 + 0.05) / 4, "r@1": 25, "r@5": 50, "r@10": 75, "mean_rank": 7.25}
    )


def test_ndcg_by_hand():
    # Two are relevant, so the first two places count: 0.5 at the first, 1 at the second.
    found = 0.5 / 1 + 1.0 / math.log2(3)
    assert ndcg([3.0, 2.0, 1.0], [0.5, 1.0, 0.0]) == pytest.approx(found / (1.0 + 0.5 / math.log2(3)))
    assert ndcg([1.0, 2.0, 3.0], [1.0, 0.5, 0.0]) == pytest.approx(
        (0.5 / math.log2(3)) / (1.0 + 0.5 / math.log2(3))
    )
    assert ndcg([3.0, 2.0], [1.0, 0.2]) == pytest.approx(1.0)
    assert ndcg([3.0, 2.0], [0.0, 0.0]) is None


def gain_of_order(order, relevance):
    """NDCG of the challenge for one order of the candidates, without `ndcg`."""
    k = int((relevance > 0).sum())
    discounts = np.log2(np.arange(k) + 2)
    return (relevance[order[:k]] / discounts).sum() / (np.sort(relevance)[::-1][:k] / discounts).sum()


@pytest.mark.parametrize("seed", range(12))
def test_ties_give_the_worst_figures_of_all_orders(seed):
    random = np.random.default_rng(seed)
    scores, relevance = random.integers(0, 3, 6).astype(float), random.choice([0, 0, 0.25, 0.5, 1.0], 6)
    relevance[0] = 1.0
    orders = [order for order in map(list, permutations(range(6))) if (np.diff(scores[order]) <= 0).all()]
    worst = min(gain_of_order(order, relevance) for order in orders)
    assert ndcg(scores.tolist(), relevance.tolist()) == pytest.approx(worst)
    for answer in range(6):
        assert rank_answer(scores.tolist(), answer) == max(order.index(answer) + 1 for order in orders)
    assert sorted(rank_candidates(scores.tolist(), [0.0] * 6)) == [1, 2, 3, 4, 5, 6]


def test_chance_is_what_random_scores_get():
    random = np.random.default_rng(0)
    ranks = [rank_answer(random.random(n).tolist(), 0) for _ in range(600) for n in (12, 100)]
    assert random_mrr([12, 100]) == pytest.approx(score_ranks(ranks)["mrr"], abs=2.0)
