"""Charts as the drawing a browser gets: positions, heights and colours of their marks."""

from xml.etree import ElementTree

import pytest

from capfilt.pipeline.report.charts import PLOT_HEIGHT, TOP, Line, curves, histogram


def marks(svg: str, style: str) -> list[dict[str, str]]:
    """Attributes of the elements of one CSS class; parsing also proves that the SVG is well formed."""
    return [
        e.attrib for e in ElementTree.fromstring(svg).iter() if style in e.attrib.get("class", "").split()
    ]


def test_histogram_bars_carry_the_colour_of_their_verdict() -> None:
    svg = histogram([4, 1, 0, 9], None, ("texts", None), 0.5)
    dropped, kept = marks(svg, "bar-dropped"), marks(svg, "bar-kept")
    assert (len(dropped), len(kept)) == (2, 1), "an empty bin has no bar"
    heights = [float(bar["height"]) for bar in (*dropped, *kept)]
    assert heights == pytest.approx([PLOT_HEIGHT * 2 / 3, PLOT_HEIGHT / 3, PLOT_HEIGHT], abs=0.1)
    assert float(dropped[0]["x"]) < float(dropped[1]["x"]) < float(kept[0]["x"])


def test_histogram_of_two_classes_hangs_the_second_below() -> None:
    svg = histogram([1, 0], [0, 4], ("clean", "noise"), 0.3)
    above, below = marks(svg, "bar-above")[0], marks(svg, "bar-below")[0]
    middle = TOP + PLOT_HEIGHT / 2
    assert float(above["y"]) + float(above["height"]) == pytest.approx(middle, abs=0.1)
    assert float(below["y"]) == pytest.approx(middle, abs=0.1)
    assert float(below["height"]) == pytest.approx(2 * float(above["height"]), abs=0.2)


def test_curves_break_where_there_is_no_value_and_mark_the_threshold() -> None:
    points = [(0.0, None), (0.25, 1.0), (0.5, 0.5), (0.75, None), (0.8, 0.1), (1.0, 0.0)]
    svg = curves([Line("precision <&>", "precision", points)], "threshold", 0.5)
    lines = marks(svg, "line")
    assert [len(line["points"].split()) for line in lines] == [2, 2]
    (dot,) = marks(svg, "dot")
    assert float(dot["cy"]) == pytest.approx(TOP + PLOT_HEIGHT / 2, abs=0.1)
    assert marks(curves([Line("a", "web", points)], "threshold", None), "dot") == []


@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [10**9, 3]])
def test_histogram_bears_any_counts(counts: list[int]) -> None:
    assert ElementTree.fromstring(histogram(counts, None, ("texts", None), None)).tag == "svg"
