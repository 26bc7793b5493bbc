"""The chart of a table: mean and spread of every row on one scale, as SVG in the colors of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from capfilt.pipeline.ablation.summary import RowSummary, TableSummary
from capfilt.pipeline.report.formats.values import metric_label

WIDTH, ROW_HEIGHT = 520, 26
LEFT, RIGHT, TOP, BOTTOM = 190, 18, 8, 36
PLOT_WIDTH = WIDTH - LEFT - RIGHT


class _Scale:
    """Horizontal scale from the least to the greatest figure, with about five round ticks."""

    def __init__(self, values: Sequence[float]) -> None:
        low, high = min(values), max(values)
        room = (high - low) * 0.06 or max(1.0, abs(high) * 0.05)
        self.low, self.high = low - room, high + room

    def x(self, value: float) -> float:
        return LEFT + PLOT_WIDTH * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        step = 10 ** math.floor(math.log10((self.high - self.low) / 2))
        step *= next((m for m in (1, 2, 5) if (self.high - self.low) / (m * step) <= 6), 10)
        first = math.ceil(self.low / step)
        return [step * i for i in range(first, math.floor(self.high / step) + 1)]


def draw_rows(summary: TableSummary, metric: str) -> Markup | None:
    """Draw the rows that have a metric: a dot at the mean, a line of ± one standard deviation, and a small
    dot for each seed; a dashed line marks the reference. None if no row has it."""
    rows = [row for row in summary.rows if metric in row.scores]
    if not rows:
        return None
    scale = _Scale([limit for row in rows for limit in _limits(row, metric)])
    height = TOP + ROW_HEIGHT * len(rows) + BOTTOM
    bottom = height - BOTTOM
    parts = []
    for tick in scale.ticks():
        x = f"{scale.x(tick):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>')
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="label" x="{LEFT + PLOT_WIDTH / 2:g}" y="{height - 5}" text-anchor="middle">'
        f"{escape(metric_label(metric))}</text>"
    )
    for row in rows:
        if row.label == summary.table.reference:
            x = f"{scale.x(row.scores[metric].mean):.1f}"
            parts.append(f'<line class="threshold" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
    for number, row in enumerate(rows):
        parts += _draw_row(row, metric, scale, TOP + ROW_HEIGHT * (number + 0.5))
    label = f"{metric_label(metric)} of {len(rows)} rows: {', '.join(row.label for row in rows)}"
    opening = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{opening}{''.join(parts)}</svg>")


def _limits(row: RowSummary, metric: str) -> list[float]:
    found = row.scores[metric]
    spread = found.deviation or 0.0
    return [found.mean - spread, found.mean + spread, *found.values]


def _draw_row(row: RowSummary, metric: str, scale: _Scale, y: float) -> list[str]:
    found = row.scores[metric]
    deviation = "" if found.deviation is None else f" ± {found.deviation:.1f}"
    title = f"<title>{escape(row.label)}: {found.mean:.1f}{deviation}</title>"
    name = f'<text class="label" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(row.label)}</text>'
    parts = [name]
    if found.deviation is not None:
        ends = scale.x(found.mean - found.deviation), scale.x(found.mean + found.deviation)
        parts.append(
            f'<line class="line web" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}">'
            f"{title}</line>"
        )
        for value in found.values:
            parts.append(f'<circle class="dot other" cx="{scale.x(value):.1f}" cy="{y:.1f}" r="2.5"/>')
    parts.append(
        f'<circle class="dot web" cx="{scale.x(found.mean):.1f}" cy="{y:.1f}" r="4.5">{title}</circle>'
    )
    return parts
