"""The report's charts as inline SVG, colored by the CSS classes of the page for its light and dark mode.

Every chart is a function from numbers to markup. Coordinates are in units of the viewBox.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from capfilt.pipeline.node import ValidationResult

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 36
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
TREND_WIDTH, TREND_HEIGHT, TREND_MARGIN = 120, 22, 4


@dataclass(frozen=True)
class Bars:
    """Counts over equal bins of [0, 1], and what is counted."""

    counts: Sequence[int]
    name: str


@dataclass(frozen=True)
class Line:
    """One curve of y in [0, 1] over x in [0, 1]."""

    name: str
    style: str
    """CSS class of the page."""
    points: Sequence[tuple[float, float | None]]
    """(x, y); a y of None interrupts the curve."""


@dataclass(frozen=True)
class _BarScale:
    """Vertical scale of a histogram: bars start at y = `base`; a count of n is `unit * sqrt(n)` high."""

    base: float
    unit: float

    def height(self, count: int) -> float:
        return self.unit * math.sqrt(count)


def draw_histogram(above: Bars, below: Bars | None, threshold: float | None) -> Markup:
    """Draw a histogram of ITM probabilities.

    The vertical scale is the square root of the count: most scores are close to 0 or 1, and a linear scale
    would hide those between.

    Args:
        above: bars above the axis. Without `below`, their color shows the verdict by `threshold`.
        below: a second class, drawn below the axis.
        threshold: marked by a line; None when candidates were judged by different thresholds.
    """
    highest = max([1, *above.counts, *(below.counts if below else [])])
    if below is None:
        scale = _BarScale(TOP + PLOT_HEIGHT, PLOT_HEIGHT / math.sqrt(highest))
        bars = _bars(above, scale, _verdict_styles(len(above.counts), threshold))
    else:
        scale = _BarScale(TOP + PLOT_HEIGHT / 2, PLOT_HEIGHT / math.sqrt(highest) / 2)
        bars = _bars(above, scale, ["bar-above"] * len(above.counts))
        bars += _bars(below, scale, ["bar-below"] * len(below.counts), downward=True)
    base = f"{scale.base:.1f}"
    parts = [
        *_verdict_background(threshold),
        *_count_axis(highest, scale, both=below is not None),
        *bars,
        f'<line class="axis" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{base}" y2="{base}"/>',
        *_x_axis("ITM probability"),
        *_threshold_line(threshold),
    ]
    return _svg(parts, _describe_histogram(above, below, threshold))


def _describe_histogram(above: Bars, below: Bars | None, threshold: float | None) -> str:
    """What the chart shows, for people who cannot see it."""
    shown = f"{sum(above.counts):,} {above.name}"
    if below is not None:
        shown += f" above the axis and {sum(below.counts):,} {below.name} below it"
    mark = "" if threshold is None else f"; the threshold is {threshold:g}"
    return f"histogram of the ITM probabilities of {shown}{mark}"


def draw_curves(lines: Sequence[Line], x_label: str, threshold: float | None) -> Markup:
    """Draw shares as functions of x, with a dot on each curve at the threshold of the run."""
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = _y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
    mark, label = _threshold_line(threshold)[:1], _threshold_line(threshold)[1:]
    parts += [*_x_axis(x_label), *mark]
    for line in lines:
        for segment in _split_at_gaps(line.points):
            path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in segment)
            title = f"<title>{escape(line.name)}</title>"
            parts.append(f'<polyline class="line {escape(line.style)}" points="{path}">{title}</polyline>')
        if threshold is not None:
            parts += _dot(line, threshold)
    parts += label  # over the curves, which would cross it
    names = ", ".join(line.name for line in lines)
    return _svg(parts, f"curves over the {x_label}: {names}; the table below has their values")


def draw_trend(found: ValidationResult) -> Markup:
    """Draw the losses of a training over its steps, the highest on top, small enough for a cell of a table;
    a dot marks the lowest."""
    low, high = min(found.losses), max(found.losses)
    first, last = found.steps[0], found.steps[-1]
    points = [
        (
            TREND_MARGIN + (step - first) / max(1, last - first) * TREND_WIDTH,
            TREND_MARGIN + (high - loss) / ((high - low) or 1.0) * TREND_HEIGHT,
        )
        for step, loss in zip(found.steps, found.losses, strict=True)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[found.steps.index(found.best_step)]
    size = f"0 0 {TREND_WIDTH + 2 * TREND_MARGIN} {TREND_HEIGHT + 2 * TREND_MARGIN}"
    label = f"loss after {len(points)} steps, lowest after step {found.best_step}"
    return Markup(
        f'<svg class="trend" viewBox="{size}" role="img" aria-label="{label}">'
        f'<polyline class="line web" points="{path}"/>'
        f'<circle class="lowest" cx="{x:.1f}" cy="{y:.1f}" r="3"/></svg>'
    )


def _svg(parts: Iterable[str], label: str) -> Markup:
    view_box = f"0 0 {WIDTH} {HEIGHT}"
    opening = f'<svg class="chart" viewBox="{view_box}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{opening}{''.join(parts)}</svg>")


def _x(value: float) -> float:
    return LEFT + value * PLOT_WIDTH


def _y(share: float) -> float:
    return TOP + (1 - share) * PLOT_HEIGHT


def _verdict_styles(bins: int, threshold: float | None) -> list[str]:
    """CSS class of each bin: the verdict on its middle."""
    if threshold is None:
        return ["bar-above"] * bins
    return ["bar-kept" if (i + 0.5) / bins >= threshold else "bar-dropped" for i in range(bins)]


def _verdict_background(threshold: float | None) -> list[str]:
    if threshold is None:
        return []
    edge = _x(min(1.0, threshold))
    rect = '<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>'
    return [
        rect.format("zone-dropped", LEFT, TOP, edge - LEFT, PLOT_HEIGHT),
        rect.format("zone-kept", edge, TOP, LEFT + PLOT_WIDTH - edge, PLOT_HEIGHT),
    ]


def _bars(bars: Bars, scale: _BarScale, styles: Sequence[str], *, downward: bool = False) -> list[str]:
    """One rectangle for each bin that is not empty, at least one unit high."""
    parts, bins = [], len(bars.counts)
    for i, count in enumerate(bars.counts):
        if not count:
            continue
        height = max(1.0, scale.height(count))
        low, high = i / bins, (i + 1) / bins
        title = f"{count:,} {bars.name} between {low:.3g} and {high:.3g}"
        y = scale.base if downward else scale.base - height
        parts.append(
            f'<rect class="{styles[i]}" x="{_x(low) + 0.5:.1f}" y="{y:.1f}" '
            f'width="{PLOT_WIDTH / bins - 1:.1f}" height="{height:.1f}"><title>{escape(title)}</title></rect>'
        )
    return parts


def _count_axis(highest: int, scale: _BarScale, *, both: bool) -> list[str]:
    """Labeled grid lines above the base, and below it as well if `both`."""
    parts = []
    for count in _round_counts(highest):
        for sign in (1, -1) if both else (1,):
            y = scale.base - sign * scale.height(count)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            label = _abbreviate(count)
            parts.append(
                f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
            )
    return parts


def _round_counts(highest: int) -> list[int]:
    """One or two counts to label: 1, 2 or 5 times a power of ten, at most 0.12 and 0.7 of the highest.

    On a square-root scale these are far enough apart. The smallest count to label is 1.
    """
    ticks = []
    for target in (0.7 * highest, 0.12 * highest):
        unit = 10 ** math.floor(math.log10(max(1.0, target)))
        ticks.append(int(max(m for m in (1, 2, 5) if m * unit <= max(1.0, target)) * unit))
    return sorted(set(ticks))


def _abbreviate(count: int) -> str:
    for size, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:g}{suffix}"
    return str(count)


def _x_axis(label: str) -> list[str]:
    bottom = TOP + PLOT_HEIGHT
    parts = [f'<line class="axis" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{bottom}" y2="{bottom}"/>']
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(
            f'<text class="tick" x="{_x(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>'
        )
    middle = LEFT + PLOT_WIDTH / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(label)}</text>'
    )
    return parts


def _threshold_line(threshold: float | None) -> list[str]:
    """A vertical line, and its label on the side that has more room."""
    if threshold is None:
        return []
    x = _x(min(1.0, threshold))
    anchor, shift = ("end", -5) if threshold > 0.5 else ("start", 5)
    label = f"threshold {threshold:g}"
    return [
        f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + PLOT_HEIGHT}"/>',
        f'<text class="tick over" x="{x + shift:.1f}" y="{TOP + 11}" text-anchor="{anchor}">{label}</text>',
    ]


def _split_at_gaps(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Segments of at least two points without a None between them."""
    segments: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            segments.append([])
        else:
            segments[-1].append((x, y))
    return [segment for segment in segments if len(segment) > 1]


def _dot(line: Line, threshold: float) -> list[str]:
    """A dot at the point next to the threshold; none when the curve has no value there."""
    x, y = min(line.points, key=lambda point: abs(point[0] - threshold))
    if y is None:
        return []
    title = f"<title>{escape(line.name)} at {threshold:g}: {y:.1%}</title>"
    return [
        f'<circle class="dot {escape(line.style)}" cx="{_x(x):.1f}" cy="{_y(y):.1f}" r="4">{title}</circle>'
    ]
