"""The page and the printed form of a comparison, and its refusals on the command line."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.comparison.page import render_comparison
from tests.pipeline.comparison.compared_runs import HOSTILE, TwoRuns, make_two_runs
from tests.pipeline.report.html_page import Page, parse_page


def run_report(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments], env={"COLUMNS": "200"})


def files_in(*places: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for place in places for path in Path(place).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def page(runs: TwoRuns) -> Page:
    return parse_page(render_comparison(runs.compare("host")))


def test_the_page_loads_nothing_and_runs_nothing(runs: TwoRuns) -> None:
    html = render_comparison(runs.compare())
    assert len(html) < 5_000_000 and "<script" not in html and "://" not in re.sub(r"data:[^\"]*", "", html)
    assert "default-src 'none'" in html


def test_ids_are_unique_and_every_link_leads_to_one(page: Page) -> None:
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    links = [e.attributes["href"][1:] for e in page.all("a")]
    named = [e.attributes["aria-labelledby"] for e in page.all() if "aria-labelledby" in e.attributes]
    assert len(ids) == len(set(ids)) and {*links, *named} <= set(ids)
    headings = [e.attributes["id"] for e in page.all("h2")]
    assert [a.attributes["href"][1:] for a in page.all("nav")[0].all("a")] == headings
    assert all(e.attributes["tabindex"] == "0" for e in page.all("div", "scroll"))


def test_every_verdict_is_a_word_too(page: Page) -> None:
    cards = page.all("article")
    assert cards
    for card in cards:
        shown = " ".join(e.text for e in card.all("span", "meta"))
        assert "✓" in shown and "✗" in shown


def test_figures_of_the_page_are_those_of_the_comparison(runs: TwoRuns, page: Page) -> None:
    found = runs.compare("host")
    for row, ratio in zip(page.table("By source and origin"), found.ratios, strict=True):
        assert ratio.a and ratio.b and ratio.difference is not None
        assert (row["source"], row["origin"]) == ratio.label
        assert row["noise A"].startswith(f"{100 * ratio.a['noise_ratio']:.1f} %")
        assert row["noise B"].startswith(f"{100 * ratio.b['noise_ratio']:.1f} %")
        assert row["B − A"].startswith(f"{100 * ratio.difference:+.2f} points".replace("-", "−"))
        assert (int(row["judged A"]), int(row["judged B"])) == (ratio.a["judged"], ratio.b["judged"])
    agreements = page.table("Verdicts on the same texts")
    assert [int(row["only A keeps"]) for row in agreements] == [each.only_a for each in found.agreements]
    settings = {row["key"]: (row["A"], row["B"]) for row in page.table("Settings that differ")}
    assert settings == {each.key: (each.a, each.b) for each in found.settings}
    assert [(row["host"], row["origin"]) for row in page.table("By host")] == [
        ratio.label for ratio in found.groups["host"]
    ]
    assert len(page.all("article")) == len(found.disagreements)


def test_texts_are_no_markup(tmp_path: Path) -> None:
    runs = make_two_runs(tmp_path)
    for place in runs.places:
        for file in Path(place).glob("rounds/1/web/*.parquet"):
            table = pq.read_table(file)
            texts = [HOSTILE if text.startswith("web 0") else text for text in table["text"].to_pylist()]
            index = table.schema.get_field_index("text")
            pq.write_table(table.set_column(index, "text", pa.array(texts)), file)
    assert HOSTILE in {each.text for each in runs.compare().disagreements}
    html = render_comparison(runs.compare())
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    done = run_report(*runs.places)
    assert done.exit_code == 0 and "[bold]text[/bold]" in done.output


def test_command_prints_the_figures_and_writes_the_page_into_the_report_of_a(runs: TwoRuns) -> None:
    before = files_in(*runs.places)
    done = run_report(*runs.places, "--by", "origin")
    assert done.exit_code == 0, done.output
    new = set(files_in(*runs.places)) - set(before)
    (page,) = new
    assert page.parent == Path(runs.places[0]) / "reports/1/compared" and str(page) in done.output
    found = runs.compare()
    for ratio in found.ratios:
        assert ratio.a and f"{ratio.a['noise_ratio']:.4f}" in done.output
    assert f"{found.images.shared:,} images of the same source, key and bytes" in done.output
    assert f"not compared  {found.images.differing} images of the same key, but other bytes" in done.output
    assert re.search(r"filter\.judge\.threshold +0\.5 +0\.25", done.output)
    again = run_report(*runs.places)
    assert again.exit_code == 0 and set(files_in(*runs.places)) == {*before, *new}


def test_refusals(runs: TwoRuns, tmp_path: Path) -> None:
    a, b = runs.places
    other = make_two_runs(tmp_path)
    for file in Path(other.places[1]).rglob("rounds/1/*/*.parquet"):
        table = pq.read_table(file)
        index = table.schema.get_field_index("sha256")
        pq.write_table(table.set_column(index, "sha256", pa.array(["1" * 64] * len(table))), file)
    before = files_in(a, b, *other.places)
    for arguments, message in [
        ((a, a), "is both A and B; give two different runs"),
        ((a, a + "/"), "is both A and B; give two different runs"),
        ((a, b, "--by", "nothing"), "--by nothing: the candidates have no such column"),
        ((a, str(tmp_path / "none")), "not a run directory"),
        ((a, b, "--verdicts", "strict"), "strict"),
        (tuple(other.places), "the runs share no image: A has candidates of"),
    ]:
        done = run_report(*arguments)
        assert done.exit_code == 2 and message in done.output, (arguments, done.output)
        assert done.output.count("error:") == 1
    assert files_in(a, b, *other.places) == before
