"""The page, the charts and the Markdown of tables: their figures, and that they are well formed."""

import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

from capfilt.pipeline.ablation.chart import LEFT, PLOT_WIDTH, draw_rows
from capfilt.pipeline.ablation.markdown import render_summary
from capfilt.pipeline.ablation.page import load_summaries, render_tables, write_page
from capfilt.pipeline.ablation.scores import Score, write_scores
from capfilt.stages.storage.store import Store
from tests.pipeline.ablation.test_summary import ABOUT, SCORES, table_of
from tests.pipeline.report.html_page import parse_page

ROOT = Path(__file__).parents[3]
TABLE = {
    seed: {
        row: {
            "itc_tr@1": 30.0 + 10 * number + seed,
            "cider": 100.0 - seed,
            "rare itc_tr@1": 1.0,
            "pairs": 1234.0,
        }
        for number, row in enumerate(("none", "human only", "both"))
    }
    for seed in (0, 2)
}


def test_the_page_has_every_figure_of_its_tables():
    page = parse_page(render_tables([table_of(TABLE)], "<run>"))
    assert page.all("h1")[0].text.startswith("<run>")
    text = page.text
    for figure in ("31.0 ± 1.4", "51.0 ± 1.4", "+20.0 ± 0.0", "+10.0 ± 0.0", "99.0 ± 1.4", "1,234"):
        assert figure in text, figure
    assert "Test source rare" in text and "capfilt ablate x" in text
    assert "80.6" in text, "what the paper found"


def test_marks_of_a_chart_are_at_their_figures():
    svg = ElementTree.fromstring(draw_rows(table_of(TABLE), "itc_tr@1"))
    means = [float(e.attrib["cx"]) for e in svg.iter() if e.attrib.get("class") == "dot web"]
    ticks = {
        float(e.text): float(e.attrib["x"])
        for e in svg.iter()
        if e.attrib.get("class") == "tick" and e.text is not None
    }
    (low, low_x), *_, (high, high_x) = sorted(ticks.items())
    scale = (high_x - low_x) / (high - low)
    assert means == pytest.approx([low_x + (value - low) * scale for value in (31.0, 41.0, 51.0)], abs=0.2)
    assert all(LEFT <= x <= LEFT + PLOT_WIDTH for x in [*means, *ticks.values()])
    seeds = [e for e in svg.iter() if e.attrib.get("class") == "dot other"]
    assert len(seeds) == 6
    (reference,) = [e for e in svg.iter() if e.attrib.get("class") == "threshold"]
    assert float(reference.attrib["x1"]) == pytest.approx(means[-1], abs=0.1)


@pytest.mark.parametrize("value", [0.0, 1e-3, 5.0, 412.5])
def test_equal_figures_have_a_scale(value):
    svg = draw_rows(table_of({0: {"none": {"cider": value}, "both": {"cider": value}}}), "cider")
    ElementTree.fromstring(svg)
    assert svg.count('class="tick"') >= 2


def test_a_metric_that_no_row_has_has_no_chart():
    assert draw_rows(table_of(TABLE), "ir@1") is None


def test_markdown_has_the_figures_and_the_command():
    lines = render_summary(table_of(TABLE)).splitlines()
    assert "| | ITC TR@1 | CIDEr | pairs |" in lines
    assert "| **both** | 51.0 ± 1.4 | 99.0 ± 1.4 | 1,234 |" in lines
    assert "| *both − none* | +20.0 ± 0.0 | +0.0 ± 0.0 |  |" in lines
    assert "Seeds 0, 2; 2 CPU cores; capfilt 1.0; 1 min 30 s of nodes." in lines
    assert ABOUT.command in lines


def write_table(store):
    flat = [
        Score(row, f"seed-{seed}", "model", seed, metric, value)
        for seed, rows in SCORES.items()
        for row, metrics in rows.items()
        for metric, value in metrics.items()
    ]
    write_scores(store, "capfilt", flat, ABOUT)


def test_tables_are_read_as_they_were_written(tmp_path):
    store = Store(str(tmp_path))
    assert load_summaries(store) == []
    write_table(store)
    write_scores(store, "rounds", [], ABOUT)
    assert load_summaries(store) == [table_of(SCORES)]
    assert write_page(store, "run").endswith("/tables.html")


def test_the_page_of_results_has_the_measured_tables_and_names_the_others(tmp_path):
    write_table(Store(str(tmp_path / "my tables")))
    render_page = runpy.run_path(str(ROOT / "docs/results.py"))["render_page"]
    page = render_page([str(tmp_path / "my tables")])
    assert "## my tables\n\n### Captioner and filter (paper, Table 1)\n" in page
    assert "| **both** | 55.0 ± 7.1 | 315.0 ± 21.2 |" in page
    assert "capfilt ablate configs/long-tail.yaml --table decoding" in page and "--table capfilt" not in page
    with pytest.raises(SystemExit, match=r"error: .*/empty: has no tables"):
        render_page([str(tmp_path / "empty")])


def test_new_tables_replace_those_of_their_folder_and_the_others_stay(tmp_path):
    render_page = runpy.run_path(str(ROOT / "docs/results.py"))["render_page"]
    write_table(Store(str(tmp_path / "mine")))
    page = render_page([str(tmp_path / "mine")])
    assert render_page([], page) == page
    older = page.replace("| 55.0 ± 7.1 |", "| 1.0 |").replace("## mine", "## theirs")
    changed = page.replace("| 55.0 ± 7.1 |", "| 2.0 |")
    both = older.partition("## Not measured")[0] + "## mine" + changed.partition("## mine")[2]
    again = render_page([str(tmp_path / "mine")], both)
    assert "| 1.0 |" in again and "| 2.0 |" not in again and "| 55.0 ± 7.1 |" in again
    assert again.index("## theirs") < again.index("## mine") < again.index("## Not measured")
    assert again.count("### ") == 2, "one of each folder"


def test_commands_of_the_page_leave_out_where_the_corpus_was():
    places = runpy.run_path(str(ROOT / "docs/results.py"))["PLACES"]
    command = (
        "capfilt ablate c.yaml --set shapes_dir=data/x --set sources.web.serve=data/x/web --set run.seed=1"
    )
    assert places.sub("", command) == "capfilt ablate c.yaml --set run.seed=1"
