"""The report's charts as inline SVG: coloured by the page's CSS variables, so that they follow light and dark.

Every chart is a function of numbers to markup. Coordinates are in the units of its viewBox; the page scales it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 36
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


@dataclass(frozen=True)
class Line:
    """One curve: y in [0, 1] at x in [0, 1]; None breaks it. `style` is a CSS class of the page."""

    name: str
    style: str
    points: Sequence[tuple[float, float | None]]


def histogram(
    above: Sequence[int], below: Sequence[int] | None, names: tuple[str, str | None], threshold: float | None
) -> Markup:
    """Counts over equal bins of [0, 1]; a second class, if there is one, hangs below the axis.

    The scale is the square root of the count: scores crowd at both ends, and linear bars would hide the middle.
    """
    highest = max([1, *above, *(below or [])])
    scale = PLOT_HEIGHT / math.sqrt(highest) / (2 if below is not None else 1)
    base = TOP + (PLOT_HEIGHT / 2 if below is not None else PLOT_HEIGHT)
    parts = [*_verdict_background(threshold), *_count_axis(highest, scale, base, both=below is not None)]
    parts += _bars(above, names[0], scale, base, up=True, threshold=threshold if below is None else None)
    if below is not None:
        parts += _bars(below, names[1] or "", scale, base, up=False, threshold=None)
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{base:.1f}" y2="{base:.1f}"/>')
    return _svg(
        [*parts, *_x_axis("ITM probability"), *_threshold_line(threshold)], "histogram of ITM probabilities"
    )


def curves(lines: Sequence[Line], x_label: str, threshold: float | None) -> Markup:
    """Shares against a threshold, with a dot where the run stands."""
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = _y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
    parts += [*_x_axis(x_label), *_threshold_line(threshold)]
    for line in lines:
        for run in _unbroken(line.points):
            path = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in run)
            title = f"<title>{escape(line.name)}</title>"
            parts.append(f'<polyline class="line {escape(line.style)}" points="{path}">{title}</polyline>')
        if threshold is not None:
            parts += _dot(line, threshold)
    return _svg(parts, f"curves over the {x_label}")


def _svg(parts: Iterable[str], label: str) -> Markup:
    body = "".join(parts)
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{body}</svg>'
    )


def _x(value: float) -> float:
    return LEFT + value * PLOT_WIDTH


def _y(share: float) -> float:
    return TOP + (1 - share) * PLOT_HEIGHT


def _verdict_background(threshold: float | None) -> list[str]:
    if threshold is None:
        return []
    edge = _x(min(1.0, threshold))
    rect = '<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>'
    return [
        rect.format("zone-dropped", LEFT, TOP, edge - LEFT, PLOT_HEIGHT),
        rect.format("zone-kept", edge, TOP, LEFT + PLOT_WIDTH - edge, PLOT_HEIGHT),
    ]


def _bars(
    counts: Sequence[int], name: str, scale: float, base: float, *, up: bool, threshold: float | None
) -> list[str]:
    """One class of a histogram; with a threshold the bars carry the colours of the verdicts."""
    parts, width = [], PLOT_WIDTH / len(counts)
    for i, count in enumerate(counts):
        if not count:
            continue
        height = max(1.0, math.sqrt(count) * scale)
        low, high = i / len(counts), (i + 1) / len(counts)
        style = "bar-above" if up else "bar-below"
        if threshold is not None:
            style = "bar-kept" if (low + high) / 2 >= threshold else "bar-dropped"
        title = f"{count:,} {name} between {low:.3g} and {high:.3g}".replace("  ", " ")
        parts.append(
            f'<rect class="{style}" x="{_x(low) + 0.5:.1f}" y="{base - height if up else base:.1f}" '
            f'width="{width - 1:.1f}" height="{height:.1f}"><title>{escape(title)}</title></rect>'
        )
    return parts


def _count_axis(highest: int, scale: float, base: float, *, both: bool) -> list[str]:
    parts = []
    for count in _nice_counts(highest):
        for sign in (1, -1) if both else (1,):
            y = base - sign * math.sqrt(count) * scale
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{LEFT + PLOT_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(
                f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(count)}</text>'
            )
    return parts


def _nice_counts(highest: int) -> list[int]:
    """Two round counts that stand apart on a square-root scale: about 0.7 and 0.12 of the highest."""
    ticks = []
    for target in (0.7 * highest, 0.12 * highest):
        unit = 10 ** math.floor(math.log10(max(1.0, target)))
        ticks.append(int(max(m for m in (1, 2, 5) if m * unit <= max(1.0, target)) * unit))
    return sorted(set(ticks))


def _short(count: int) -> str:
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
    if threshold is None:
        return []
    x = _x(min(1.0, threshold))
    anchor, shift = ("end", -5) if threshold > 0.5 else ("start", 5)
    return [
        f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + PLOT_HEIGHT}"/>',
        f'<text class="tick" x="{x + shift:.1f}" y="{TOP + 11}" text-anchor="{anchor}">threshold {threshold:g}</text>',
    ]


def _unbroken(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if len(run) > 1]


def _dot(line: Line, threshold: float) -> list[str]:
    near = min(line.points, key=lambda point: abs(point[0] - threshold))
    if near[1] is None:
        return []
    title = f"<title>{escape(line.name)} at {threshold:g}: {near[1]:.1%}</title>"
    style = escape(line.style)
    return [
        f'<circle class="dot {style}" cx="{_x(near[0]):.1f}" cy="{_y(near[1]):.1f}" r="4">{title}</circle>'
    ]
