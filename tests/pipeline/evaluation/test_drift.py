"""Diversity of texts against values computed by hand."""

import pytest

from capfilt.pipeline.evaluation.drift import compute_text_drift


def test_text_drift_equals_values_computed_by_hand() -> None:
    # 8 words, 4 of them different; 5 pairs, 3 of them different; 1 of 3 texts repeats another one.
    assert compute_text_drift(["a red star", "A red star.", "red ring"]) == {
        "texts": 3,
        "distinct_1": pytest.approx(4 / 8),
        "distinct_2": pytest.approx(3 / 5),
        "mean_words": pytest.approx(8 / 3),
        "duplicate_share": pytest.approx(1 / 3),
    }


def test_text_drift_of_nothing() -> None:
    assert compute_text_drift([]) is None
    assert compute_text_drift([""]) == {
        "texts": 1, "distinct_1": 0.0, "distinct_2": 0.0, "mean_words": 0.0, "duplicate_share": 0.0,
    }  # fmt: skip
