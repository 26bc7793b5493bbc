"""The page of an ablation: all tables that it has, rendered from one template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from capfilt import __version__
from capfilt.pipeline.ablation.chart import draw_rows
from capfilt.pipeline.ablation.console import format_spread, row_label
from capfilt.pipeline.ablation.definitions import SCORE_COLUMNS, TEXT_COLUMNS, column_title
from capfilt.pipeline.ablation.scores import load_scores
from capfilt.pipeline.ablation.summary import Spread, TableSummary, summarize
from capfilt.pipeline.ablation.tables import TABLES
from capfilt.pipeline.report import page as report_page
from capfilt.stages.storage.layout import TABLES_PAGE
from capfilt.stages.storage.store import Store

CHARTED = ("itc_tr@1", "itc_ir@1", "cider")
"""Metrics that have a chart."""


def load_summaries(store: Store) -> list[TableSummary]:
    """The tables that the folder of an ablation has, in the order of their definition."""
    found = {name: load_scores(store, name) for name in TABLES}
    return [summarize(name, *of_table) for name, of_table in found.items() if of_table and of_table[0]]


def write_page(store: Store, title: str) -> str:
    """Write the page of all tables in the folder of an ablation; returns its address.

    Args:
        title: name of the run.
    """
    store.put(TABLES_PAGE, render_tables(load_summaries(store), title).encode())
    return store.address(TABLES_PAGE)


def render_tables(summaries: Sequence[TableSummary], title: str) -> str:
    """The page of some tables. The template escapes all values."""
    environment = report_page.make_environment(Path(__file__).with_name("templates"))
    environment.filters |= {
        "label": column_title,
        "spread": _spread,
        "lead": lambda found, metric: _spread(found, metric, "+"),
    }
    return environment.get_template("tables.html.j2").render(
        title=title,
        version=__version__,
        summaries=summaries,
        charts={s.name: list(filter(None, (draw_rows(s, metric) for metric in CHARTED))) for s in summaries},
        score_columns=SCORE_COLUMNS,
        text_columns=TEXT_COLUMNS,
        row_label=row_label,
        filters=[],
    )


def _spread(found: Spread | None, metric: str, sign: str = "") -> str:
    shown = format_spread(found, metric, sign)
    return "–" if shown == "-" else shown.replace("-", "−")
