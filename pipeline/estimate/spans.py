"""Estimates with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
"""Probability with which an interval contains the true value, if the measurements are independent and their
errors normal."""


@dataclass(frozen=True)
class Span:
    """An estimate and half the width of its interval."""

    value: float
    error: float = 0.0
    """0 where only one measurement is known."""

    @property
    def low(self) -> float:
        """Lower limit; nothing that is estimated here can be negative."""
        return max(0.0, self.value - self.error)

    @property
    def high(self) -> float:
        return self.value + self.error

    def __add__(self, other: Span) -> Span:
        return Span(self.value + other.value, math.hypot(self.error, other.error))

    def __mul__(self, factor: float) -> Span:
        return Span(self.value * factor, self.error * abs(factor))


def add_spans(spans: Iterable[Span]) -> Span:
    """The sum of independent estimates: their errors add in quadrature."""
    return sum(spans, Span(0.0))


def mean_span(values: Sequence[float]) -> Span:
    """The mean of measurements, with Student's interval of a mean: t(0.975, n - 1) s / sqrt(n)."""
    if len(values) < 2:
        return Span(fmean(values)) if values else Span(0.0)
    return Span(fmean(values), student_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def student_quantile(freedom: int) -> float:
    """The factor of a two-sided interval by Student's distribution with so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
