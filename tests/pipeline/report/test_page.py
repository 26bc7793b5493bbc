"""The report page: one file without scripts, every text shown safely, the same bytes every time."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from capfilt.pipeline.report.build import build_report
from capfilt.pipeline.report.inputs import ReportInputs, RoundReport, read_previous_reports
from capfilt.pipeline.report.metrics_file import RoundMetrics
from capfilt.pipeline.report.page import candidate_glob, drift_rows
from capfilt.stages.storage.store import Store
from tests.pipeline.report.report_cases import HOSTILE, read_image


class Page(HTMLParser):
    """The page as a browser parses it: tags, addresses, and the texts of the example cards."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.events: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self._verdict: str | None = None
        self._in_text = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.add(tag)
        self.addresses += [v or "" for k, v in attributes if k in ("src", "href", "data", "action", "srcset")]
        self.events += [k for k, _ in attributes if k.startswith("on")]
        if tag == "li":
            self._verdict = values.get("class")
        if tag == "span" and values.get("class") == "text":
            self.texts.append((self._verdict or "", ""))
            self._in_text = True

    def handle_endtag(self, tag: str) -> None:
        self._in_text = self._in_text and tag != "span"

    def handle_data(self, data: str) -> None:
        if self._in_text:
            verdict, text = self.texts[-1]
            self.texts[-1] = (verdict, text + data)


def test_page_is_one_file_without_scripts(inputs: ReportInputs, tmp_path: Path) -> None:
    build_report(inputs, Store(str(tmp_path)))
    html = (tmp_path / "reports/1/report.html").read_text()
    page = Page(html)
    assert not page.tags & {"script", "link", "iframe", "object", "form"}
    assert page.events == []
    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    assert "default-src 'none'" in html and "url(" not in html and "@import" not in html
    assert "quickstart &lt;b&gt;" in html
    assert "secret" not in html, "a password in a url is not shown"


def test_page_shows_every_text_in_the_color_of_its_verdict(inputs: ReportInputs, tmp_path: Path) -> None:
    build_report(inputs, Store(str(tmp_path)))
    shown = set(Page((tmp_path / "reports/1/report.html").read_text()).texts)
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
    html = (run / "reports/2/report.html").read_text()
    rows = html[html.index('id="drift"') : html.index('id="rows"')].count("<tr><td>synthetic</td>")
    assert rows == 2


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


def test_glob_of_the_candidates_is_the_folder_of_the_round() -> None:
    assert candidate_glob(["s3://b/run/rounds/1/web/000000.parquet"]) == "s3://b/run/rounds/1/**/*.parquet"
    assert candidate_glob(["1/web/0.parquet"]) == "1/**/*.parquet"
    assert candidate_glob(["web/0.parquet"]) == candidate_glob([]) == ""
