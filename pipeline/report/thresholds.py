"""NEW FILE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from capfilt.pipeline.report.charts import Line, curves, histogram
from capfilt.pipeline.report.tables import SCORE_BINS, Row

if TYPE_CHECKING:
    pass


HISTOGRAM_BARS = 40


SWEEP = tuple(round(step / 50, 2) for step in range(51))


TABLE_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


Bins = dict[tuple[str, bool | None], np.ndarray]
"""(origin, is planted noise or None) → counts [SCORE_BINS]."""


def single_threshold(settings: Sequence[Row]) -> float | None:
    """The threshold of all candidates; None where there are several. Stored as float32: 0.3 is 0.30000001."""
    thresholds = {row["threshold"] for row in settings}
    value = thresholds.pop() if len(thresholds) == 1 else None
    return None if value is None else round(value, 6)


def score_arrays(rows: Sequence[Row]) -> Bins:
    """`RunTables.score_bins` as one array of counts per origin and truth; web before synthetic."""
    bins: Bins = {}
    for row in sorted(rows, key=lambda row: row["origin"], reverse=True):
        counts = bins.setdefault((row["origin"], row["noise"]), np.zeros(SCORE_BINS, dtype=np.int64))
        counts[row["bin"]] += row["n"]
    return bins


def histograms(bins: Bins, threshold: float | None) -> list[dict[str, Any]]:
    """One chart per origin: clean above noise where the truth is known, else coloured by verdict."""
    charts = []
    for origin in dict.fromkeys(origin for origin, _ in bins):
        clean, noise = bins.get((origin, False)), bins.get((origin, True))
        if clean is not None or noise is not None:
            chart = histogram(_bars(clean), _bars(noise), ("clean texts", "noise texts"), threshold)
            charts.append({"origin": origin, "truth": True, "svg": chart})
        if (unknown := bins.get((origin, None))) is not None:
            chart = histogram(_bars(unknown), None, ("texts", None), threshold)
            charts.append({"origin": origin, "truth": False, "svg": chart})
    return charts


def _bars(counts: np.ndarray | None) -> list[int]:
    if counts is None:
        return [0] * HISTOGRAM_BARS
    return [int(n) for n in counts.reshape(HISTOGRAM_BARS, -1).sum(axis=1)]


def sweep_names(bins: Bins) -> list[str]:
    """Columns of `sweep`: "<origin> kept", then precision and recall where there is a truth to judge by."""
    names = [f"{origin} kept" for origin in dict.fromkeys(origin for origin, _ in bins)]
    known = {noise for _, noise in bins}
    return [*names, "precision", "recall"] if {True, False} <= known else names


def sweep(bins: Bins, thresholds: Sequence[float]) -> list[tuple[float, list[float | None]]]:
    """What each threshold would keep, and how well its rejections would find the planted noise.

    Returns:
        [(threshold, values in the order of `sweep_names`)], each in [0, 1] or None for 0 / 0.
    """
    below = {key: np.concatenate([[0], np.cumsum(counts)]) for key, counts in bins.items()}
    rows = []
    for threshold in thresholds:
        cut = round(threshold * SCORE_BINS)
        values: list[float | None] = []
        for origin in dict.fromkeys(origin for origin, _ in bins):
            parts = [total for key, total in below.items() if key[0] == origin]
            values.append(_share(sum(int(p[-1] - p[cut]) for p in parts), sum(int(p[-1]) for p in parts)))
        noise, clean = _sum(below, True), _sum(below, False)
        if noise is not None and clean is not None:
            values.append(_share(int(noise[cut]), int(noise[cut] + clean[cut])))
            values.append(_share(int(noise[cut]), int(noise[-1])))
        rows.append((threshold, values))
    return rows


def _sum(below: Bins, noise: bool) -> np.ndarray | None:
    parts = [total for key, total in below.items() if key[1] is noise]
    return np.sum(parts, axis=0) if parts else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def sweep_chart(bins: Bins, threshold: float | None) -> dict[str, Any]:
    """The curves of `sweep` and their legend."""
    table = sweep(bins, SWEEP)
    styles = {"web kept": "web", "synthetic kept": "synthetic", "precision": "precision", "recall": "recall"}
    lines = [
        Line(name, styles.get(name, "other"), [(t, values[i]) for t, values in table])
        for i, name in enumerate(sweep_names(bins))
    ]
    return {"svg": curves(lines, "threshold", threshold), "lines": lines}
