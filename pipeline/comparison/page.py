"""A comparison as a page: one file without scripts, fonts or external addresses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from capfilt import __version__
from capfilt.pipeline.comparison.compare import Comparison
from capfilt.pipeline.comparison.shared import Disagreement
from capfilt.pipeline.comparison.text import FORMATS, MOST_ROWS, SIGNED, describe_images
from capfilt.pipeline.report import page as report_page
from capfilt.pipeline.report.formats.values import format_count, format_percent
from capfilt.pipeline.report.gallery.thumbnails import Thumbnail, encode_thumbnails
from capfilt.stages.storage.layout import comparison_file
from capfilt.stages.storage.store import Store


@dataclass(frozen=True)
class Card:
    """An image with a text that only one of the runs keeps."""

    image: Thumbnail | None
    """None when the image cannot be read."""
    found: Disagreement


def write_comparison(found: Comparison, store: Store) -> str:
    """Write the page into the report of A; returns its address.

    Args:
        store: the run directory of A.
    """
    name = comparison_file(found.a.round, found.file_name, found.a.verdicts)
    store.put(name, render_comparison(found).encode())
    return store.address(name)


def render_comparison(found: Comparison) -> str:
    """The page of a comparison. The template escapes all values."""
    environment = report_page.make_environment(Path(__file__).with_name("templates"))
    environment.filters |= {"figure": _format_figure, "change": _format_change}
    return environment.get_template("comparison.html.j2").render(
        found=found,
        images=describe_images(found),
        version=__version__,
        most_rows=MOST_ROWS,
        sections=_make_sections(found),
        filters=[],
    )


def _make_sections(found: Comparison) -> list[tuple[str, list[Card]]]:
    """Cards of texts with different verdicts, by origin and by the run that keeps them."""
    places = [(each.source, each.key) for each in found.disagreements]
    thumbnails = encode_thumbnails(places, found.a.read_image)
    sections: dict[str, list[Card]] = {}
    for each in found.disagreements:
        other = "B" if each.kept_by == "A" else "A"
        title = f"{each.origin.capitalize()} texts that {each.kept_by} keeps and {other} drops"
        sections.setdefault(title, []).append(Card(thumbnails[each.source, each.key], each))
    return list(sections.items())


def _format_figure(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    if kind == "count":
        return format_count(int(value))
    return format_percent(value, 2) if kind == "share" else FORMATS[kind](value)


def _format_change(value: float | None, kind: str) -> str:
    return "–" if value is None else SIGNED[kind](value).replace("-", "−")
