"""What keyboards, screen readers, phones and dark rooms need, as far as the markup shows it."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from capfilt.pipeline.report.build import build_report
from capfilt.pipeline.report.inputs import ReportInputs, RoundReport
from capfilt.pipeline.report.metrics_file import RoundMetrics
from capfilt.pipeline.report.page import SECTIONS, TEMPLATES
from capfilt.stages.storage.store import Store
from tests.pipeline.report.html_page import Element, Page
from tests.pipeline.report.report_cases import page_of, report_inputs, write_run

COPY = {"kind": "perceptual", "copies": 7, "source": "a", "key": "1", "surplus": 1}
EARLIER = RoundReport(RoundMetrics(round=1, noise_ratio={"web": 0.5}), {"texts": {}})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page that has every section."""
    folder = tmp_path_factory.mktemp("run")
    inputs = replace(report_inputs(write_run(folder)), round=2, previous=[EARLIER], duplicates=[COPY])
    build_report(inputs, Store(str(folder)))
    return page_of(folder, 2)


def links_of(page: Page) -> list[str]:
    return [each.attributes["href"] for each in page.all("nav")[0].all("a")]


def headings_of(page: Page) -> list[str]:
    return ["#" + each.attributes["id"] for each in page.all("h2")]


def test_navigation_lists_exactly_the_sections_of_the_page(page: Page) -> None:
    shown = [f"#{section}" for section in SECTIONS if section not in ("groups", "tasks")]
    assert links_of(page) == headings_of(page) == shown
    assert [a.text for a in page.all("nav")[0].all("a")] == [h.text for h in page.all("h2")]


def test_sections_without_content_are_left_out(inputs: ReportInputs, run: Path) -> None:
    build_report(replace(inputs, retrieval={}, caption={}), Store(str(run)))
    found = page_of(run)
    without = {"#groups", "#models", "#tasks", "#drift", "#copies"}
    assert links_of(found) == headings_of(found) == [f"#{s}" for s in SECTIONS if f"#{s}" not in without]
    nothing = replace(inputs, candidate_files=[], corpus_files=[], retrieval={}, caption={})
    build_report(nothing, Store(str(run)))
    found = page_of(run)
    assert links_of(found) == headings_of(found) == ["#overview", "#noise", "#run"]


def test_ids_are_unique_and_every_reference_leads_to_one(page: Page) -> None:
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    links = [e.attributes["href"] for e in page.all("a")]
    named = [e.attributes["aria-labelledby"] for e in page.all() if "aria-labelledby" in e.attributes]
    assert {link[1:] for link in links if link.startswith("#")} | set(named) <= set(ids)


def test_page_has_a_language_a_title_and_landmarks(page: Page) -> None:
    assert page.all("html")[0].attributes["lang"] == "en" and page.all("title")[0].text
    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    first = page.all("body")[0].all("a")[0]
    assert first.text == "Skip to the content" and first.attributes["href"] == "#content"
    assert page.all("main")[0].attributes["id"] == "content"
    assert "aria-label" in page.all("nav")[0].attributes


def test_headings_leave_out_no_level(page: Page) -> None:
    levels = [int(e.tag[1]) for e in page.all() if re.fullmatch("h[1-6]", e.tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_have_a_caption_and_headings_with_a_scope(page: Page) -> None:
    for table in page.all("table"):
        (caption,) = table.all("caption")
        assert (caption.text and table.content[1] is caption) or caption in table.content
        assert all(head.attributes.get("scope") in ("col", "row") for head in table.all("th"))
        assert all(head.text for head in table.all("thead")[0].all("th")), caption.text
        for row in table.all("tbody")[0].all("tr"):
            assert [each.attributes["scope"] for each in row.all("th")] == ["row"], caption.text


def test_whatever_scrolls_has_a_name_and_can_be_reached_by_keyboard(page: Page) -> None:
    scrolling = [*page.all("div", "scroll"), *page.all("pre")]
    assert len(scrolling) == len(page.all("table")) + 1
    for each in scrolling:
        assert (each.attributes["role"], each.attributes["tabindex"]) == ("region", "0")
        assert each.attributes.get("aria-labelledby") or each.attributes.get("aria-label")
    for table in page.all("table"):
        assert table.parent is not None and table.parent.classes == {"scroll"}


def test_images_have_words(page: Page) -> None:
    images = page.all("img")
    assert images and all(each.attributes["alt"].startswith("image ") for each in images)
    charts = page.all("svg")
    assert charts and all(e.attributes["role"] == "img" and e.attributes["aria-label"] for e in charts)
    bars = page.all("div", "bar")
    assert bars and all(bar.attributes["aria-hidden"] == "true" for bar in bars)
    assert not [e for e in page.all() if "loading" in e.attributes], "the images are in the page"


def test_verdicts_are_words_too(page: Page) -> None:
    verdicts = page.all("span", "verdict")
    for each in verdicts:
        words = "".join(words_of(each)).split()
        assert words[:2] in (["✓", "kept,"], ["✗", "dropped,"], ["not", "judged"])
    assert len({"".join(words_of(each)).split()[1] for each in verdicts}) == 3


def words_of(element: Element) -> list[str]:
    """All text, also that for screen readers only."""
    return [w for e in element.content for w in ([e] if isinstance(e, str) else words_of(e))]


def test_choices_have_labels_and_styles(page: Page) -> None:
    (choices,) = page.all("fieldset")
    assert choices.all("legend")[0].text == "Show"
    style = page.all("style")[0].text
    for each in choices.all("input"):
        assert each.parent is not None and each.parent.tag == "label" and each.parent.text
        assert each.attributes["type"] == "radio" and each.attributes["name"] == "show"
    kinds = [e.attributes["id"].removeprefix("show-") for e in choices.all("input") if "id" in e.attributes]
    assert "disagree" in kinds and "flag-empty" in kinds
    for kind in kinds:
        assert f"main:has(#show-{kind}:checked)" in style
        shown = [card for card in page.all("section") for card in card.all("article", kind)]
        label = next(e.parent for e in choices.all("input") if e.attributes.get("id") == f"show-{kind}")
        assert label is not None and label.text.endswith(f"({len(shown)})")


def test_links_to_the_web_reveal_nothing(page: Page) -> None:
    outside = [e for e in page.all("a") if not e.attributes["href"].startswith("#")]
    links = {"http://one.example/1", "http://one.example/2", "http://one.example/3", "https://[::1]:80/5"}
    assert {e.attributes["href"] for e in outside} == links
    for each in outside:
        assert each.attributes["href"].startswith(("http://", "https://"))
        assert set(each.attributes["rel"].split()) == {"noopener", "noreferrer", "nofollow"}
        assert each.text == each.attributes["href"]


@pytest.mark.parametrize(
    ("title", "columns"),
    [
        ("Noise ratios", ["source", "origin", "noise ratio"]),
        ("Hosts with most rows", ["host", "noise ratio", "rows"]),
        ("Planted noise", ["truth", "share dropped"]),
        ("Speed of the stages", ["shards of", "stage", "images/s"]),
    ],
)
def test_most_important_columns_come_first(page: Page, title: str, columns: list[str]) -> None:
    """A phone shows about three columns before it has to scroll."""
    assert list(page.table(title)[0])[: len(columns)] == columns


PAIRS = [
    *((ink, ground, 4.5) for ink in ("ink", "muted", "accent") for ground in ("bg", "card", "faint")),
    *((ink, ground, 4.5) for ink in ("kept", "dropped") for ground in ("bg", "card")),
    *((ink, f"{verdict}-soft", 4.5) for verdict in ("kept", "dropped") for ink in (verdict, "muted", "ink")),
    *((mark, "card", 3.0) for mark in ("kept", "dropped", "clean", "noise", "accent", "muted")),
    ("accent", "kept-soft", 3.0),
    ("soft", "faint", 1.5),
]
"""(color of text or marks, color behind it, least contrast by WCAG 2.2 AA)."""


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "ground", "least"), PAIRS)
def test_contrast(scheme: int, ink: str, ground: str, least: float) -> None:
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATES / "report.css.j2").read_text(), re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", blocks[scheme]))
    lighter, darker = sorted((luminance(colors[ink]), luminance(colors[ground])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= least


def luminance(color: str) -> float:
    """Relative luminance of a color by WCAG."""
    shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
