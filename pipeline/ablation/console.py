"""A table, printed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from capfilt.pipeline.ablation.definitions import SCORE_COLUMNS, TEXT_COLUMNS, column_label
from capfilt.pipeline.ablation.summary import RowSummary, Spread, TableSummary


def print_table(console: Console, summary: TableSummary) -> None:
    """Print a table: a row per model, and how far the reference is ahead of each other one.

    Figures are the mean over the seeds ± the standard deviation of one seed.
    """
    seeds = ", ".join(map(str, summary.seeds))
    title = f"{summary.table.title}; seeds {seeds}"
    console.print()
    _print(console, summary, title, summary.columns((*SCORE_COLUMNS, *TEXT_COLUMNS)))
    for source in summary.test_sources:
        _print(console, summary, f"test source {source}", summary.columns(SCORE_COLUMNS, source))


def _print(console: Console, summary: TableSummary, title: str, names: Sequence[str]) -> None:
    table = Table(title=escape(title), title_justify="left", title_style="dim", box=None, pad_edge=False)
    table.add_column("row")
    for name in names:
        table.add_column(column_label(name), justify="right")
    for row in summary.rows:
        table.add_row(row_label(row, summary), *(format_spread(row.scores.get(n), n) for n in names))
    for row in (row for row in summary.rows if row.lead):
        leads = (format_spread(row.lead.get(n), n, "+") if n not in TEXT_COLUMNS else "" for n in names)
        table.add_row(f"{summary.table.reference} - {row.label}", *leads, style="bold")
    console.print(table)


def row_label(row: RowSummary, summary: TableSummary) -> str:
    """The label of a row, and its seeds if some are missing."""
    if list(row.seeds) == summary.seeds:
        return row.label
    return f"{row.label} (seeds {', '.join(map(str, row.seeds))})"


def format_spread(found: Spread | None, metric: str, sign: str = "") -> str:
    """Mean ± deviation; "-" for None. Numbers of pairs have no decimals."""
    if found is None:
        return "-"
    form = ",.0f" if metric == "pairs" else ".1f"
    deviation = "" if not found.deviation and metric == "pairs" else _deviation(found, form)
    return f"{found.mean:{sign}{form}}{deviation}"


def _deviation(found: Spread, form: str) -> str:
    return "" if found.deviation is None else f" ± {found.deviation:{form}}"
