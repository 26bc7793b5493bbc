"""The table of an ablation against figures computed by hand."""

import pytest

from capfilt.pipeline.evaluation.ablation import Spread, build_ablation

SCORES = {
    0: {
        "pretrain.0": {"tr@1": 40.0, "cider": 200.0},
        "human_only": {"tr@1": 10.0},
        "pretrain.1": {"tr@1": 50.0, "cider": 300.0},
        "pretrain.2": {"tr@1": 99.0},
    },
    7: {
        "pretrain.0": {"tr@1": 44.0, "cider": 210.0},
        "human_only": {"tr@1": 12.0},
        "filter_only": {"tr@1": 1.0},
        "pretrain.1": {"tr@1": 60.0, "cider": 330.0},
    },
}


def test_rows_have_mean_and_deviation_over_the_seeds_in_the_order_of_the_paper() -> None:
    rows = build_ablation(SCORES)
    assert [(row.model, row.texts) for row in rows] == [
        ("pretrain.0", "none"), ("human_only", "human only"), ("pretrain.1", "both"),
    ]  # fmt: skip
    assert rows[0].scores["tr@1"] == Spread(42.0, pytest.approx(8**0.5))
    assert rows[2].scores["cider"] == Spread(315.0, pytest.approx(450**0.5))


def test_lead_is_the_spread_of_the_differences_within_a_seed() -> None:
    none, human, both = build_ablation(SCORES)
    assert none.lead == {
        "tr@1": Spread(13.0, pytest.approx(18**0.5)),  # 10 and 16
        "cider": Spread(110.0, pytest.approx(200**0.5)),  # 100 and 120
    }
    assert human.lead == {"tr@1": Spread(44.0, pytest.approx(32**0.5))}
    assert both.lead == {}


def test_one_seed_has_no_deviation() -> None:
    rows = build_ablation({0: SCORES[0]})
    assert rows[0].scores["tr@1"] == Spread(40.0, None) and rows[0].lead["tr@1"] == Spread(10.0, None)


def test_without_the_method_there_are_no_rows() -> None:
    assert build_ablation({0: {"pretrain.0": {"tr@1": 1.0}}}) == []
