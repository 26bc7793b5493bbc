"""What a shard costs: so much for the shard, and so much for each of its rows.

Seconds and bytes alike are fitted by least squares, cost = shard + row x rows, on shards of different sizes.
So what happens once per shard (the slowest of its downloads, opening files) is told from what every row
costs, and small shards predict large ones. Neither part may be negative: then the other is fitted alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from capfilt.pipeline.estimate.spans import Span, student_quantile


@dataclass(frozen=True)
class ShardCost:
    """A fit."""

    shard: float
    """Cost of a shard without rows."""
    row: float
    """Cost of a row."""
    covariance: tuple[tuple[float, float], tuple[float, float]]
    """Of (shard, row)."""
    freedom: int
    """Degrees of freedom of the residuals; 0: no interval is known."""

    def total(self, shards: float, rows: float) -> Span:
        """Cost of so many shards that hold so many rows, with the interval of a predicted mean:
        t(0.975, freedom) sqrt(x' C x) for x = (shards, rows)."""
        (ss, sr), (_, rr) = self.covariance
        variance = shards * shards * ss + 2 * shards * rows * sr + rows * rows * rr
        error = student_quantile(self.freedom) * math.sqrt(max(0.0, variance)) if self.freedom else 0.0
        return Span(self.shard * shards + self.row * rows, error)


def fit_cost(measured: Sequence[tuple[int, float]]) -> ShardCost:
    """Fit the cost of shards.

    Args:
        measured: (rows, cost) of each shard; at least one.
    """
    rows = np.array([each for each, _ in measured], dtype=float)
    costs = np.array([each for _, each in measured], dtype=float)
    if len(set(rows.tolist())) > 1:
        both = _least_squares(np.stack([np.ones_like(rows), rows], axis=1), costs)
        if both.shard >= 0 and both.row >= 0:
            return both
        if both.row < 0:
            return _least_squares(np.stack([np.ones_like(rows), np.zeros_like(rows)], axis=1), costs)
    return _least_squares(np.stack([np.zeros_like(rows), rows], axis=1), costs)


def _least_squares(inputs: np.ndarray, costs: np.ndarray) -> ShardCost:
    """The fit on those columns (shard, row) that are not zero.

    Args:
        inputs: n x 2.
        costs: n.
    """
    used = np.flatnonzero(inputs.any(axis=0))
    columns = inputs[:, used]
    solution = np.zeros(2)
    covariance = np.zeros((2, 2))
    freedom = max(0, len(costs) - len(used))
    if len(used):
        inverse = np.linalg.inv(columns.T @ columns)
        found = inverse @ columns.T @ costs
        solution[used] = found
        if freedom:
            spread = float(np.sum((costs - columns @ found) ** 2)) / freedom
            covariance[np.ix_(used, used)] = inverse * spread
    (ss, sr), (rs, rr) = covariance.tolist()
    return ShardCost(float(solution[0]), float(solution[1]), ((ss, sr), (rs, rr)), freedom)
