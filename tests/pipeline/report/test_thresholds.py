"""Histograms and threshold sweeps, from scores counted by hand."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from capfilt.pipeline.report.database import SCORE_BINS
from capfilt.pipeline.report.thresholds import (
    TABLE_THRESHOLDS,
    common_threshold,
    count_scores,
    draw_histograms,
    draw_sweep,
    sweep_columns,
    sweep_thresholds,
)
from tests.pipeline.report.report_cases import tables_of


def row(origin: str, noise: bool | None, bin_: int, n: int = 1) -> dict:
    return {"origin": origin, "noise": noise, "bin": bin_, "n": n}


def bar_titles(svg: str) -> list[str]:
    """What the bars of a chart say when the pointer is over them."""
    bars = (e for e in ElementTree.fromstring(svg).iter() if e.attrib.get("class", "").startswith("bar-"))
    return [str(bar[0].text) for bar in bars]


def test_common_threshold_is_none_for_several_thresholds() -> None:
    assert common_threshold([{"threshold": 0.30000001192092896}, {"threshold": 0.30000001192092896}]) == 0.3
    assert common_threshold([{"threshold": 0.123456}]) == 0.123456
    assert common_threshold([{"threshold": 0.3}, {"threshold": 0.5}]) is None
    assert common_threshold([{"threshold": None}]) is None
    assert common_threshold([]) is None


def test_scores_are_counted_by_origin_and_truth_web_first() -> None:
    scores = count_scores([row("synthetic", None, 999, 2), row("web", True, 0), row("web", True, 0, 4)])
    assert list(scores) == [("web", True), ("synthetic", None)]
    assert [len(counts) for counts in scores.values()] == [SCORE_BINS] * 2
    assert scores["web", True][0] == 5 and scores["synthetic", None][999] == 2


def test_sweep_says_what_another_threshold_would_do(run: Path) -> None:
    scores = count_scores(tables_of(run).score_bins())
    assert sweep_columns(scores) == ["web kept", "synthetic kept", "precision", "recall"]
    table = dict(sweep_thresholds(scores, (0.0, 0.2, 0.5, 0.75)))
    # web scores .9 .1 .3 .6 .5 .49; synthetic .8 .7 .55 .05 .2 .95 1.0; noise .1 .6, clean .9 .3
    assert table[0.0] == [1.0, 1.0, None, 0.0]
    assert table[0.2] == pytest.approx([5 / 6, 6 / 7, 1.0, 0.5])
    assert table[0.5] == pytest.approx([3 / 6, 5 / 7, 0.5, 0.5])
    assert table[0.75] == pytest.approx([1 / 6, 3 / 7, 2 / 3, 1.0])


def test_sweep_has_precision_and_recall_only_with_both_classes() -> None:
    assert sweep_columns(count_scores([row("web", True, 5), row("web", None, 5)])) == ["web kept"]
    assert sweep_columns(count_scores([row("web", False, 5)])) == ["web kept"]
    assert sweep_columns(count_scores([row("web", False, 5), row("web", True, 5)])) == [
        "web kept",
        "precision",
        "recall",
    ]
    assert sweep_thresholds(count_scores([row("web", True, 600)]), (0.5,)) == [(0.5, [1.0])]
    assert sweep_columns({}) == [] and sweep_thresholds({}, (0.5,)) == [(0.5, [])]


def test_sweep_chart_reaches_from_0_to_1_in_steps_of_0_02() -> None:
    chart = draw_sweep(
        count_scores([row("web", True, 500), row("web", False, 700), row("ours", None, 1)]), 0.5
    )
    assert [(line.name, line.style) for line in chart.lines] == [
        ("web kept", "web"),
        ("ours kept", "other"),
        ("precision", "precision"),
        ("recall", "recall"),
    ]
    points = chart.lines[0].points
    assert [x for x, _ in points] == pytest.approx([i / 50 for i in range(51)])
    assert [y for _, y in points[:26]] == [1.0] * 26, "0.5 keeps a score of 0.500"
    assert points[26][1] == 0.5 and points[-1][1] == 0.0


def test_table_of_thresholds_is_ascending_inside_0_to_1() -> None:
    assert sorted(set(TABLE_THRESHOLDS)) == list(TABLE_THRESHOLDS)
    assert TABLE_THRESHOLDS[0] > 0 and TABLE_THRESHOLDS[-1] < 1


def test_histograms_show_known_and_unknown_truth_of_each_origin() -> None:
    rows = [
        row("synthetic", None, 999, 3),
        row("web", False, 0, 2),
        row("web", True, 25),
        row("web", None, 500),
    ]
    charts = draw_histograms(count_scores(rows), 0.5)
    assert [(chart.origin, chart.by_truth) for chart in charts] == [
        ("web", True),
        ("web", False),
        ("synthetic", False),
    ]
    assert bar_titles(charts[0].svg) == [
        "2 clean texts between 0 and 0.025",
        "1 noise texts between 0.025 and 0.05",
    ]
    assert bar_titles(charts[1].svg) == ["1 texts between 0.5 and 0.525"]
    assert bar_titles(charts[2].svg) == ["3 texts between 0.975 and 1"]


def test_histogram_of_one_class_has_the_other_side_empty() -> None:
    (chart,) = draw_histograms(count_scores([row("web", True, 24, 5)]), None)
    assert chart.by_truth and bar_titles(chart.svg) == ["5 noise texts between 0 and 0.025"]
