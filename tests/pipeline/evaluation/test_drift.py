"""Diversity of texts against values computed by hand."""

import pytest

from capfilt.pipeline.evaluation.drift import compute_text_drift, find_alarms


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


BEFORE = {"distinct_1": 0.10, "distinct_2": 0.50, "mean_words": 10.0, "duplicate_share": 0.25}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"distinct_1": 0.0801}, None),
        ({"distinct_1": 0.0799}, "different words"),
        ({"distinct_2": 0.401}, None),
        ({"distinct_2": 0.399}, "pairs of words"),
        ({"duplicate_share": 0.299}, None),
        ({"duplicate_share": 0.301}, "repeated"),
        ({"mean_words": 8.01}, None),
        ({"mean_words": 7.99}, "words per caption"),
        ({"mean_words": 11.99}, None),
        ({"mean_words": 12.01}, "words per caption"),
    ],
)
def test_alarm_when_captions_change_too_much_from_round_to_round(change: dict[str, float], word: str) -> None:
    drift = {"acceptance": {"synthetic": 0.75}, "texts": {"synthetic": BEFORE | change, "web": None}}
    found = find_alarms(drift, {"texts": {"synthetic": BEFORE}})
    assert [word in alarm for alarm in found] == ([] if word is None else [True])
    assert find_alarms(drift, None) == find_alarms(drift, {"texts": {"synthetic": None}}) == []


@pytest.mark.parametrize(("kept", "alarms"), [(None, 0), (0.899, 0), (0.901, 1)])
def test_alarm_when_the_filter_keeps_almost_all_captions(kept: float | None, alarms: int) -> None:
    found = find_alarms({"acceptance": {"web": 0.99, "synthetic": kept}, "texts": {}}, None)
    assert len(found) == alarms and all("keeps 90.1% of the captions" in alarm for alarm in found)


@pytest.mark.parametrize(("kept", "alarms"), [(0.874, 0), (0.876, 1)])
def test_alarm_when_the_filter_drops_less_than_half_of_what_it_dropped_before(
    kept: float, alarms: int
) -> None:
    before = {"acceptance": {"synthetic": 0.75}, "texts": {}}
    found = find_alarms({"acceptance": {"synthetic": kept}, "texts": {}}, before)
    assert len(found) == alarms and all("12.4% of the captions, after 25.0%" in alarm for alarm in found)
    unknown = {"acceptance": {"synthetic": None}, "texts": {}}
    assert find_alarms(before, unknown) == find_alarms(unknown, before) == []
