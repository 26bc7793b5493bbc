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


def difference_interval(
    first: tuple[int, int], second: tuple[int, int], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """The interval of a difference of two independent shares from their score intervals (method 10 of R. G.
    Newcombe, Statistics in Medicine 17, 1998).

    Args:
        first, second: (cases that count, all cases).

    Returns:
        Limits of the second share − the first, in [-1, 1]; None if one of them has no cases.
    """
    before, after = wilson_interval(*first, confidence), wilson_interval(*second, confidence)
    if before is None or after is None:
        return None
    p, q = first[0] / first[1], second[0] / second[1]
    below = math.hypot(q - after[0], before[1] - p)
    above = math.hypot(after[1] - q, p - before[0])
    return q - p - below, q - p + above


def add_intervals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with the limits of the interval of their noise ratio, from `judged` and `dropped`."""
    for row in rows:
        low, high = wilson_interval(row["dropped"] or 0, row["judged"] or 0) or (None, None)
        row |= {"noise_low": low, "noise_high": high}
    return rows
