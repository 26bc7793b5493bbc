"""Filter quality against values computed by hand or by counting all pairs."""

from random import Random

import numpy as np
import pytest

from capfilt.pipeline.evaluation.filter_quality import (
    FilterQuality,
    compute_filter_quality,
    compute_roc_auc,
)


def test_roc_auc_equals_the_count_over_all_pairs_with_ties_as_one_half() -> None:
    random = Random(0)
    positive = [random.random() < 0.4 for _ in range(200)]
    score = [random.randint(0, 9) / 10 + 0.1 * label for label in positive]
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, is_positive in zip(score, positive, strict=True) if is_positive
        for n, is_other in zip(score, positive, strict=True) if not is_other
    ]  # fmt: skip
    assert compute_roc_auc(np.array(positive), np.array(score)) == pytest.approx(sum(wins) / len(wins))


def test_filter_quality_equals_values_computed_by_hand() -> None:
    truth = ["clean", "mismatched", "clean", "boilerplate", "mismatched", None]
    itm_prob = [0.9, 0.1, 0.3, 0.6, None, 0.2]
    kept = [True, False, False, True, None, False]
    # Judged noise: rows 2 and 4, one of them dropped; dropped with known truth: rows 2 and 3.
    # Noise scores .9 and .4, clean scores .1 and .7: three of four pairs are in order.
    assert compute_filter_quality(truth, itm_prob, kept) == FilterQuality(
        auc=pytest.approx(0.75), precision=0.5, recall=0.5
    )


def test_incomplete_texts_match_their_image() -> None:
    truth, itm_prob = ["incomplete", "mismatched", "clean"], [0.4, 0.1, 0.9]
    assert compute_filter_quality(truth, itm_prob, [False, False, True]) == FilterQuality(
        auc=1.0, precision=0.5, recall=1.0
    )


def test_filter_quality_is_none_unless_both_classes_were_judged() -> None:
    assert compute_filter_quality([], [], []) is None
    assert compute_filter_quality([None], [0.5], [True]) is None
    assert compute_filter_quality(["clean", "clean"], [0.5, 0.1], [True, False]) is None
    assert compute_filter_quality(["partial"], [0.5], [True]) is None
    assert compute_filter_quality(["partial", "clean"], [None, 0.5], [None, True]) is None
    assert compute_filter_quality(["partial", "clean"], [0.5, 0.5], [None, True]) is None


def test_filter_quality_has_no_precision_when_nothing_was_dropped() -> None:
    found = compute_filter_quality(["clean", "partial"], [0.9, 0.9], [True, True])
    assert found == FilterQuality(auc=0.5, precision=None, recall=0.0)
