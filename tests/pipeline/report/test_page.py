"""The report page: one file without scripts, every text shown safely, the same bytes every time."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capfilt.pipeline.report.build import build_report
from capfilt.pipeline.report.gallery.cards import MAX_CARD_BYTES
from capfilt.pipeline.report.gallery.examples import Candidate, Example
from capfilt.pipeline.report.inputs import ReportInputs, RoundReport, read_previous_reports
from capfilt.pipeline.report.metrics_file import RoundMetrics
from capfilt.pipeline.report.page import drift_rows
from capfilt.pipeline.report.tables import RoundTables
from capfilt.stages.storage.store import Store
from tests.pipeline.report.html_page import Element, parse_page
from tests.pipeline.report.report_cases import HOSTILE, page_of, read_image

LOADING = ("src", "srcset", "data", "action", "poster", "background", "ping")
"""Attributes whose addresses a browser loads by itself."""


def texts_of(card: Element) -> str:
    return " ".join(each.text for each in card.all("span", "text"))


def test_page_is_one_file_without_scripts(inputs: ReportInputs, tmp_path: Path) -> None:
    build_report(inputs, Store(str(tmp_path)))
    html = (tmp_path / "reports/1/report.html").read_text()
    page = parse_page(html)
    assert not {e.tag for e in page.all()} & {"script", "link", "iframe", "object", "form", "base"}
    assert not [name for e in page.all() for name in e.attributes if name.startswith("on")]
    loaded = {name: e.attributes[name] for e in page.all() for name in LOADING if name in e.attributes}
    assert set(loaded) == {"src"} and loaded["src"].startswith("data:image/")
    assert all(each.attributes["src"].startswith("data:image/") for each in page.all("img"))
    assert "default-src 'none'" in html and "url(" not in html and "@import" not in html
    assert "quickstart &lt;b&gt;" in html
    assert "secret" not in html, "a password in a url is not shown"
    assert not page.all("img")[0].attributes.keys() & {"loading"}, "a page that is printed has its images"


def test_page_shows_every_text_in_the_color_of_its_verdict(inputs: ReportInputs, tmp_path: Path) -> None:
    build_report(inputs, Store(str(tmp_path)))
    cards = page_of(tmp_path).all("li", "kept", "dropped", "unjudged")
    shown = {(each.attributes["class"], texts_of(each)) for each in cards}
    visible = HOSTILE.replace("\u202e", "\N{REPLACEMENT CHARACTER}").replace(
        "\x07", "\N{REPLACEMENT CHARACTER}"
    )
    assert {
        ("kept", "a red star"), ("dropped", "a blue ring"), ("dropped", "a box"), ("kept", "free shipping"),
        ("kept", "caption of 2"), ("dropped", "caption of 4"), ("unjudged", "empty"), ("kept", visible),
    } <= shown  # fmt: skip
    assert ("kept", "a blue ring") not in shown and ("dropped", "a red star") not in shown


def test_report_is_the_same_bytes_every_time(inputs: ReportInputs, tmp_path: Path) -> None:
    for name in ("first", "second"):
        build_report(inputs, Store(str(tmp_path / name)))
    for name in ("report.html", "metrics.json", "drift.json", "noise.parquet"):
        assert (tmp_path / "first/reports/1" / name).read_bytes() == (
            tmp_path / "second/reports/1" / name
        ).read_bytes()


def test_report_without_candidates(tmp_path: Path) -> None:
    nothing = ReportInputs(run="empty", round=1, candidate_files=[], corpus_files=[], read_image=read_image)
    metrics = build_report(nothing, Store(str(tmp_path)))
    assert metrics.counts == {} and metrics.noise_ratio == {}
    assert metrics.filter is None and metrics.planted_noise is None
    assert "No candidates" in (tmp_path / "reports/1/report.html").read_text()


def test_drift_table_has_a_row_for_every_round(inputs: ReportInputs, run: Path) -> None:
    store = Store(str(run))
    build_report(inputs, store)
    earlier = read_previous_reports(store, 2)
    assert [report.metrics.round for report in earlier] == [1]
    # The first caption of each of the six captioned images: "caption of 1" … "5" and b's "caption of 2".
    assert earlier[0].drift["texts"]["synthetic"] == {
        "texts": 6,
        "distinct_1": pytest.approx(7 / 18),
        "distinct_2": pytest.approx(6 / 12),
        "mean_words": 3.0,
        "duplicate_share": pytest.approx(1 / 6),
    }
    build_report(replace(inputs, round=2, previous=earlier), store)
    drift = page_of(run, 2).table("Texts of every round")
    assert [(row["texts"], row["round"]) for row in drift] == [
        ("synthetic", "1"), ("synthetic", "2"), ("web", "1"), ("web", "2"),
    ]  # fmt: skip


def test_drift_rows_are_ordered_by_origin_and_round_and_have_the_diversity_where_it_is_known() -> None:
    texts = {"synthetic": {"distinct_1": 0.5, "texts": 9}, "web": None}
    reports = [
        RoundReport(RoundMetrics(round=2, noise_ratio={"web": 0.5, "synthetic": 0.25}), {"texts": texts}),
        RoundReport(RoundMetrics(round=1, noise_ratio={"synthetic": None, "web": 0.75}), {}),
    ]
    assert drift_rows(reports) == [
        {"round": 1, "origin": "synthetic", "noise_ratio": None},
        {"round": 2, "origin": "synthetic", "noise_ratio": 0.25, "distinct_1": 0.5, "texts": 9},
        {"round": 1, "origin": "web", "noise_ratio": 0.75},
        {"round": 2, "origin": "web", "noise_ratio": 0.5},
    ]


def test_alarms_are_shown_at_the_top(inputs: ReportInputs, run: Path) -> None:
    build_report(inputs, Store(str(run)))
    assert page_of(run).all("p", "alarm") == []
    before = {"texts": {"synthetic": {"distinct_1": 0.9, "distinct_2": 0.5, "mean_words": 3.0,
                                      "duplicate_share": 0.2}}}  # fmt: skip
    previous = [RoundReport(RoundMetrics(round=1), before)]
    build_report(replace(inputs, round=2, previous=previous), Store(str(run)))
    (alarm,) = page_of(run, 2).all("p", "alarm")
    assert alarm.text == (
        "Alarm: The share of different words in the captions has fallen from 90.00% to 38.89%."
    )


@pytest.mark.parametrize(("wanted", "is_cut"), [(24, False), (3_000, True)])
def test_page_is_bounded_and_says_what_is_left_out(
    inputs: ReportInputs, run: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, is_cut: bool
) -> None:
    """Every text and address is as long as the page shows it, and of characters that grow most."""
    texts = [Candidate("web", '"\u202e' * 400, 0.5, 0.3, True, ("duplicate",), '"' * 90, 0.1)] * 9
    url = "http://h.example/" + "&" * 1_900
    names = ["close call", "miss", "kept/dropped"]
    examples = [
        Example(name, '"' * 90, f"{number:06d}", 9_000, 9_000, url, texts)
        for name in names
        for number in range(wanted // 3)
    ]
    monkeypatch.setattr(RoundTables, "examples", lambda tables, per_section: examples)
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "JPEG", quality=95)
    build_report(replace(inputs, read_image=lambda source, key: sink.getvalue()), Store(str(run)))
    html = (run / "reports/1/report.html").read_bytes()
    assert len(html) <= 5_000_000
    cards = len(page_of(run).all("article"))
    assert (b"further examples are left out" in html) == is_cut
    assert cards < wanted if is_cut else cards == wanted
    markup = len(html) - sum(len(image.attributes["src"]) for image in page_of(run).all("img"))
    assert markup <= MAX_CARD_BYTES + 100_000, "the estimate of a card is an upper bound"
