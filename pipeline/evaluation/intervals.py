"""Confidence intervals of shares."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

CONFIDENCE = 0.95


def wilson_interval(part: int, whole: int, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The score interval of a share without continuity correction (E. B. Wilson, JASA 22, 1927).

    It holds for few cases too, and for shares close to 0 and 1. The cases count as independent.

    Args:
        part: cases that count.
        whole: all cases.
        confidence: probability that the interval contains the true share.

    Returns:
        Lower and upper limit in [0, 1]; None without cases.
    """
    if not whole:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = part / whole, z * z / whole
    middle = share + weight / 2
    spread = z * math.sqrt(share * (1 - share) / whole + weight / (4 * whole))
    low, high = (middle - spread) / (1 + weight), (middle + spread) / (1 + weight)
    return (low if part else 0.0, high if part < whole else 1.0)


def add_intervals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with the limits of the interval of their noise ratio, from `judged` and `dropped`."""
    for row in rows:
        low, high = wilson_interval(row["dropped"] or 0, row["judged"] or 0) or (None, None)
        row |= {"noise_low": low, "noise_high": high}
    return rows
