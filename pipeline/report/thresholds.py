"""Scores against thresholds: histograms by origin, and what another threshold would keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from capfilt.pipeline.report.charts import Bars, Line, draw_curves, draw_histogram
from capfilt.pipeline.report.database import SCORE_BINS
from capfilt.pipeline.report.tables import Row

HISTOGRAM_BARS = 40
"""Bars of a histogram; divides `SCORE_BINS`."""
CURVE_THRESHOLDS = tuple(round(step / 50, 2) for step in range(51))
"""Points of the curves: 0, 0.02, …, 1."""
TABLE_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

LINE_STYLES = {"web kept": "web", "synthetic kept": "synthetic", "precision": "precision", "recall": "recall"}
"""CSS classes of the curves; every other curve is "other"."""

ScoreCounts = dict[tuple[str, bool | None], np.ndarray]
"""(origin, whether planted noise; None when unknown) → counts [SCORE_BINS] over equal bins of [0, 1]."""


@dataclass(frozen=True)
class Histogram:
    """The histogram of one origin's scores."""

    origin: str
    by_truth: bool
    """Clean texts above planted noise; otherwise one class, colored by verdict."""
    svg: Markup


@dataclass(frozen=True)
class SweepChart:
    """The curves of a threshold sweep, and the lines for their legend."""

    svg: Markup
    lines: list[Line]


def common_threshold(settings: Sequence[Row]) -> float | None:
    """The threshold of all candidates; None when there are several.

    Args:
        settings: rows of `RoundTables.settings`. The threshold is stored as float32, where 0.3 is 0.30000001.
    """
    thresholds = {row["threshold"] for row in settings}
    value = thresholds.pop() if len(thresholds) == 1 else None
    return None if value is None else round(value, 6)


def count_scores(rows: Sequence[Row]) -> ScoreCounts:
    """Rows of `RoundTables.score_bins` as one array of counts per origin and truth, web before synthetic."""
    found: ScoreCounts = {}
    for row in sorted(rows, key=lambda row: row["origin"], reverse=True):
        counts = found.setdefault((row["origin"], row["noise"]), np.zeros(SCORE_BINS, dtype=np.int64))
        counts[row["bin"]] += row["n"]
    return found


def draw_histograms(scores: ScoreCounts, threshold: float | None) -> list[Histogram]:
    """Draw up to two histograms per origin: texts with known truth and texts with unknown truth."""
    charts = []
    for origin in _origins(scores):
        clean, noise, unknown = (scores.get((origin, truth)) for truth in (False, True, None))
        if clean is not None or noise is not None:
            above, below = Bars(_merge_bins(clean), "clean texts"), Bars(_merge_bins(noise), "noise texts")
            charts.append(Histogram(origin, True, draw_histogram(above, below, threshold)))
        if unknown is not None:
            bars = Bars(_merge_bins(unknown), "texts")
            charts.append(Histogram(origin, False, draw_histogram(bars, None, threshold)))
    return charts


def draw_sweep(scores: ScoreCounts, threshold: float | None) -> SweepChart:
    """Draw the values of `sweep_thresholds` as curves."""
    table = sweep_thresholds(scores, CURVE_THRESHOLDS)
    lines = [
        Line(name, LINE_STYLES.get(name, "other"), [(at, values[i]) for at, values in table])
        for i, name in enumerate(sweep_columns(scores))
    ]
    return SweepChart(draw_curves(lines, "threshold", threshold), lines)


def sweep_columns(scores: ScoreCounts) -> list[str]:
    """Names of the values of `sweep_thresholds`: "<origin> kept" for each origin, then "precision" and
    "recall" if there are both clean texts and planted noise."""
    names = [f"{origin} kept" for origin in _origins(scores)]
    truths = {noise for _, noise in scores}
    return [*names, "precision", "recall"] if {True, False} <= truths else names


def sweep_thresholds(
    scores: ScoreCounts, thresholds: Sequence[float]
) -> list[tuple[float, list[float | None]]]:
    """Compute what each threshold would keep, and how well its verdicts would find the planted noise.

    Returns:
        [(threshold, values in the order of `sweep_columns`)], each value in [0, 1], or None for 0 / 0.
    """
    below = {key: np.concatenate([[0], np.cumsum(counts)]) for key, counts in scores.items()}
    rows = []
    for threshold in thresholds:
        cut = round(threshold * SCORE_BINS)
        values: list[float | None] = []
        for origin in _origins(scores):
            total = np.sum([counts for key, counts in below.items() if key[0] == origin], axis=0)
            values.append(_ratio(total[-1] - total[cut], total[-1]))
        noise, clean = _sum_by_truth(below, True), _sum_by_truth(below, False)
        if noise is not None and clean is not None:
            values.append(_ratio(noise[cut], noise[cut] + clean[cut]))
            values.append(_ratio(noise[cut], noise[-1]))
        rows.append((threshold, values))
    return rows


def _origins(scores: ScoreCounts) -> list[str]:
    return list(dict.fromkeys(origin for origin, _ in scores))


def _merge_bins(counts: np.ndarray | None) -> list[int]:
    """Counts over `HISTOGRAM_BARS` bins; zeros for None."""
    if counts is None:
        return [0] * HISTOGRAM_BARS
    return [int(n) for n in counts.reshape(HISTOGRAM_BARS, -1).sum(axis=1)]


def _sum_by_truth(below: ScoreCounts, noise: bool) -> np.ndarray | None:
    parts = [counts for key, counts in below.items() if key[1] is noise]
    return np.sum(parts, axis=0) if parts else None


def _ratio(part: int, whole: int) -> float | None:
    return int(part) / int(whole) if whole else None
