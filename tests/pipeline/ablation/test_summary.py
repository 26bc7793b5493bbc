"""The figures of a table against figures computed by hand."""

import pytest

from capfilt.pipeline.ablation.scores import About, Score
from capfilt.pipeline.ablation.summary import Spread, summarize

ABOUT = About("capfilt ablate x", "1.0", "2 CPU cores", 90.0)
SCORES = {
    0: {
        "none": {"tr@1": 40.0, "cider": 200.0},
        "human only": {"tr@1": 10.0},
        "both": {"tr@1": 50.0, "cider": 300.0, "rare tr@1": 5.0},
        "of another table": {"tr@1": 99.0},
    },
    7: {
        "none": {"tr@1": 44.0, "cider": 210.0},
        "human only": {"tr@1": 12.0},
        "both": {"tr@1": 60.0, "cider": 330.0},
    },
}


def table_of(scores, name="capfilt"):
    flat = [
        Score(row, f"seed-{seed}", "model", seed, metric, value)
        for seed, rows in scores.items()
        for row, metrics in rows.items()
        for metric, value in metrics.items()
    ]
    return summarize(name, flat, ABOUT)


def test_rows_have_mean_and_deviation_over_the_seeds_in_the_order_of_the_paper():
    none, human, both = table_of(SCORES).rows
    assert [row.label for row in (none, human, both)] == ["none", "human only", "both"]
    assert none.scores["tr@1"] == Spread(42.0, pytest.approx(8**0.5), (40.0, 44.0))
    assert both.scores["cider"] == Spread(315.0, pytest.approx(450**0.5), (300.0, 330.0))
    assert human.seeds == (0, 7)


def test_lead_is_the_spread_of_the_differences_within_a_seed():
    none, human, both = table_of(SCORES).rows
    assert none.lead == {
        "tr@1": Spread(13.0, pytest.approx(18**0.5), (10.0, 16.0)),
        "cider": Spread(110.0, pytest.approx(200**0.5), (100.0, 120.0)),
    }
    assert human.lead == {"tr@1": Spread(44.0, pytest.approx(32**0.5), (40.0, 48.0))}
    assert both.lead == {}


def test_one_seed_has_no_deviation():
    none, *_ = table_of({0: SCORES[0]}).rows
    assert none.scores["tr@1"] == Spread(40.0, None, (40.0,))
    assert none.lead["tr@1"] == Spread(10.0, None, (10.0,))


def test_a_row_that_lacks_a_seed_is_compared_on_the_seeds_that_it_has():
    scores = {0: SCORES[0], 7: {"both": SCORES[7]["both"]}}
    summary = table_of(scores)
    none, _, both = summary.rows
    assert (none.seeds, both.seeds, summary.seeds) == ((0,), (0, 7), [0, 7])
    assert none.lead["tr@1"] == Spread(10.0, None, (10.0,)), "not 55 - 40"


def test_without_the_reference_there_are_rows_and_no_leads():
    (none,) = table_of({0: {"none": {"tr@1": 1.0}}}).rows
    assert none.lead == {} and none.scores["tr@1"].mean == 1.0


def test_columns_are_those_that_a_row_has():
    summary = table_of(SCORES)
    assert summary.test_sources == ["rare"]
    assert summary.columns(("tr@1", "ir@1", "cider")) == ["tr@1", "cider"]
    assert summary.columns(("tr@1", "cider"), "rare") == ["rare tr@1"]
