"""Tables as Markdown, for docs/results.md: no figure of that page is typed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from capfilt.pipeline.ablation.console import format_spread, row_label
from capfilt.pipeline.ablation.definitions import SCORE_COLUMNS, TEXT_COLUMNS, column_title
from capfilt.pipeline.ablation.summary import TableSummary
from capfilt.pipeline.report.formats.values import format_duration


def render_summary(summary: TableSummary, level: int = 3) -> str:
    """A table as a section of a Markdown page.

    Args:
        level: of its heading.
    """
    about, seeds = summary.about, ", ".join(map(str, summary.seeds))
    lines = [
        f"{'#' * level} {summary.table.title}",
        "",
        summary.table.question,
        "",
        *_rows(summary, summary.columns((*SCORE_COLUMNS, *TEXT_COLUMNS))),
    ]
    for source in summary.test_sources:
        lines += ["", f"Test source `{source}`:", "", *_rows(summary, summary.columns(SCORE_COLUMNS, source))]
    made_in = format_duration(about.seconds)
    lines += [
        "",
        f"Seeds {seeds}; {about.machine}; capfilt {about.version}; {made_in} of nodes.",
        "",
        "```bash",
        about.command,
        "```",
    ]
    return "\n".join(lines) + "\n"


def _rows(summary: TableSummary, names: Sequence[str]) -> Iterator[str]:
    yield "| | " + " | ".join(map(column_title, names)) + " |"
    yield "|---|" + "---:|" * len(names)
    for row in summary.rows:
        label = row_label(row, summary)
        shown = f"**{label}**" if row.label == summary.table.reference else label
        yield f"| {shown} | " + " | ".join(format_spread(row.scores.get(n), n) for n in names) + " |"
    for row in (row for row in summary.rows if row.lead):
        leads = ("" if n in TEXT_COLUMNS else format_spread(row.lead.get(n), n, "+") for n in names)
        yield f"| *{summary.table.reference} − {row.label}* | " + " | ".join(leads) + " |"
