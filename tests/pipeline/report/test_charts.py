"""Charts as a browser draws them: positions, heights and colors of their marks."""

from xml.etree import ElementTree

import pytest

from capfilt.pipeline.node import ValidationResult
from capfilt.pipeline.report.charts import (
    LEFT,
    PLOT_HEIGHT,
    PLOT_WIDTH,
    TOP,
    Bars,
    Line,
    draw_curves,
    draw_histogram,
    draw_trend,
)


def find_marks(svg: str, style: str) -> list[ElementTree.Element]:
    """The elements with a CSS class; parsing also proves that the SVG is well formed."""
    return [e for e in ElementTree.fromstring(svg).iter() if style in e.attrib.get("class", "").split()]


def find_attributes(svg: str, style: str) -> list[dict[str, str]]:
    return [mark.attrib for mark in find_marks(svg, style)]


def tick_labels(svg: str) -> list[str]:
    return [str(mark.text) for mark in find_marks(svg, "tick")]


def test_bars_have_the_color_of_their_verdict() -> None:
    svg = draw_histogram(Bars([4, 1, 0, 9], "texts"), None, 0.5)
    dropped, kept = find_attributes(svg, "bar-dropped"), find_attributes(svg, "bar-kept")
    assert (len(dropped), len(kept)) == (2, 1), "an empty bin has no bar"
    heights = [float(bar["height"]) for bar in (*dropped, *kept)]
    assert heights == pytest.approx([PLOT_HEIGHT * 2 / 3, PLOT_HEIGHT / 3, PLOT_HEIGHT], abs=0.1)
    assert float(dropped[0]["x"]) < float(dropped[1]["x"]) < float(kept[0]["x"])


@pytest.mark.parametrize(("threshold", "kept"), [(0.37, 3), (0.375, 3), (0.38, 2)])
def test_verdict_of_a_bin_is_that_of_its_middle(threshold: float, kept: int) -> None:
    svg = draw_histogram(Bars([1, 1, 1, 1], "texts"), None, threshold)
    assert len(find_marks(svg, "bar-kept")) == kept and len(find_marks(svg, "bar-dropped")) == 4 - kept


def test_second_class_is_below_the_axis() -> None:
    svg = draw_histogram(Bars([1, 0], "clean"), Bars([0, 4], "noise"), 0.3)
    (above,), (below,) = find_attributes(svg, "bar-above"), find_attributes(svg, "bar-below")
    middle = TOP + PLOT_HEIGHT / 2
    assert float(above["y"]) + float(above["height"]) == pytest.approx(middle, abs=0.1)
    assert float(below["y"]) == pytest.approx(middle, abs=0.1)
    assert float(below["height"]) == pytest.approx(PLOT_HEIGHT / 2, abs=0.1)
    assert float(below["height"]) == pytest.approx(2 * float(above["height"]), abs=0.2)


def test_bars_fill_their_bins_up_to_a_gap_of_one_unit() -> None:
    bars = find_attributes(draw_histogram(Bars([1, 1, 1, 1], "texts"), None, None), "bar-above")
    for i, bar in enumerate(bars):
        left, right = float(bar["x"]), float(bar["x"]) + float(bar["width"])
        assert left == pytest.approx(LEFT + i * PLOT_WIDTH / 4 + 0.5, abs=0.1)
        assert right == pytest.approx(LEFT + (i + 1) * PLOT_WIDTH / 4 - 0.5, abs=0.1)


def test_ticks_are_at_the_values_that_they_name() -> None:
    svg = draw_curves([], "threshold", None)
    across = [m for m in find_marks(svg, "tick") if m.attrib["text-anchor"] == "middle"]
    assert [mark.text for mark in across] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    for mark in across:
        assert float(mark.attrib["x"]) == pytest.approx(LEFT + float(str(mark.text)) * PLOT_WIDTH, abs=0.1)
    lines = [float(line["y1"]) for line in find_attributes(svg, "grid")]
    assert lines == pytest.approx([TOP + share * PLOT_HEIGHT for share in (1, 0.75, 0.5, 0.25, 0)], abs=0.1)
    (label,) = find_marks(svg, "label")
    assert label.text == "threshold" and float(label.attrib["x"]) == LEFT + PLOT_WIDTH / 2


def test_smallest_bar_can_be_seen() -> None:
    svg = draw_histogram(Bars([10**9, 1], "texts"), None, None)
    assert [float(bar["height"]) for bar in find_attributes(svg, "bar-above")] == [PLOT_HEIGHT, 1.0]


@pytest.mark.parametrize(
    ("highest", "labels"),
    [
        (0, ["1"]),
        (1, ["1"]),
        (9, ["1", "5"]),
        (71, ["5", "20"]),
        (72, ["5", "50"]),
        (166, ["10", "100"]),
        (167, ["20", "100"]),
        (2000, ["200", "1k"]),
        (3 * 10**6, ["200k", "2M"]),
        (8 * 10**9, ["500M", "5G"]),
    ],
)
def test_axis_is_labeled_with_round_counts(highest: int, labels: list[str]) -> None:
    """1, 2 or 5 times a power of ten, at most 0.12 and 0.7 of the highest bar."""
    svg = draw_histogram(Bars([highest], "texts"), None, None)
    assert tick_labels(svg)[: -len(("0", "0.2", "0.4", "0.6", "0.8", "1"))] == labels


def test_labels_of_two_classes_are_at_the_height_of_their_counts() -> None:
    svg = draw_histogram(Bars([100], "clean"), Bars([1], "noise"), None)
    lines = [float(line["y1"]) for line in find_attributes(svg, "grid")]
    middle, unit = TOP + PLOT_HEIGHT / 2, PLOT_HEIGHT / 2 / 10
    expected = [
        middle - 10**0.5 * unit,
        middle + 10**0.5 * unit,
        middle - 50**0.5 * unit,
        middle + 50**0.5 * unit,
    ]
    assert lines == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("threshold", "x", "anchor"),
    [(0.3, 0.3, "start"), (0.5, 0.5, "start"), (0.51, 0.51, "end"), (1.5, 1.0, "end")],
)
def test_threshold_is_marked_with_its_label_on_the_wider_side(
    threshold: float, x: float, anchor: str
) -> None:
    svg = draw_histogram(Bars([1], "texts"), None, threshold)
    (line,) = find_attributes(svg, "threshold")
    assert float(line["x1"]) == float(line["x2"]) == pytest.approx(LEFT + x * PLOT_WIDTH, abs=0.1)
    label = find_marks(svg, "tick")[-1]
    assert label.text == f"threshold {threshold:g}" and label.attrib["text-anchor"] == anchor
    (dropped,), (kept,) = find_attributes(svg, "zone-dropped"), find_attributes(svg, "zone-kept")
    assert float(dropped["width"]) == pytest.approx(x * PLOT_WIDTH, abs=0.1)
    assert float(kept["width"]) == pytest.approx((1 - x) * PLOT_WIDTH, abs=0.1)


def test_label_of_the_threshold_is_drawn_over_the_curves() -> None:
    svg = draw_curves([Line("recall", "recall", [(0.0, 0.0), (1.0, 1.0)])], "threshold", 0.5)
    order = [mark.attrib["class"] for mark in ElementTree.fromstring(svg).iter() if "class" in mark.attrib]
    assert order.index("threshold") < order.index("line recall") < order.index("tick over")


def test_curves_are_interrupted_without_a_value_and_have_a_dot_at_the_threshold() -> None:
    points = [(0.0, None), (0.25, 1.0), (0.5, 0.5), (0.75, None), (0.8, 0.1), (1.0, 0.0)]
    svg = draw_curves([Line("precision <&>", "precision", points)], "threshold", 0.5)
    lines = find_attributes(svg, "line")
    assert [len(line["points"].split()) for line in lines] == [2, 2]
    (dot,) = find_attributes(svg, "dot")
    assert float(dot["cx"]) == pytest.approx(LEFT + PLOT_WIDTH / 2, abs=0.1)
    assert float(dot["cy"]) == pytest.approx(TOP + PLOT_HEIGHT / 2, abs=0.1)
    assert tick_labels(svg)[:5] == ["0%", "25%", "50%", "75%", "100%"]


def test_curve_has_no_dot_without_a_threshold_or_a_value_there() -> None:
    line = Line("a", "web", [(0.0, None), (0.25, 1.0), (0.5, 0.5), (0.75, None)])
    assert find_marks(draw_curves([line], "threshold", None), "dot") == []
    assert find_marks(draw_curves([line], "threshold", 0.7), "dot") == []
    single = Line("a", "web", [(0.0, None), (0.25, 1.0), (0.5, None)])
    assert find_marks(draw_curves([single], "threshold", None), "line") == []


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [10**9, 3]])
def test_histogram_accepts_any_counts(counts: list[int]) -> None:
    assert ElementTree.fromstring(draw_histogram(Bars(counts, "texts"), None, None)).tag == "svg"


@pytest.mark.parametrize(
    ("steps", "losses", "best", "points"),
    [
        ([10, 20, 40], [3.0, 1.0, 2.0], 20, ["4.0,4.0", "44.0,26.0", "124.0,15.0"]),
        ([5], [2.0], 5, ["4.0,4.0"]),
        ([5, 6], [2.0, 2.0], 5, ["4.0,4.0", "124.0,4.0"]),
    ],
)
def test_trend_is_a_line_with_a_dot_at_the_lowest_loss(steps, losses, best, points) -> None:
    svg = draw_trend(ValidationResult(7, best, steps, losses))
    (line,), (dot,) = find_attributes(svg, "line"), find_attributes(svg, "lowest")
    assert line["points"].split() == points
    assert f"{dot['cx']},{dot['cy']}" == points[steps.index(best)]
