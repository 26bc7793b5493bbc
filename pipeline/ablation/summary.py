"""A table over several seeds: mean and spread of every row, and how far the reference is ahead of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from capfilt.pipeline.ablation.definitions import AblationTable, PaperScores
from capfilt.pipeline.ablation.scores import About, Score
from capfilt.pipeline.ablation.tables import TABLES


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds."""

    mean: float
    deviation: float | None
    """Standard deviation of a single seed's figure (n - 1 in the denominator); None for one seed."""
    values: tuple[float, ...] = ()
    """The figure of each seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, tuple(values))


@dataclass(frozen=True)
class RowSummary:
    """One row of a table."""

    label: str
    paper: PaperScores | None
    seeds: tuple[int, ...]
    """Seeds whose run of this row is done."""
    scores: dict[str, Spread]
    """By metric."""
    lead: dict[str, Spread]
    """By metric: how far the reference is ahead of this row, as the differences within each seed."""


@dataclass(frozen=True)
class TableSummary:
    """A table that can be shown."""

    name: str
    table: AblationTable
    about: About
    rows: tuple[RowSummary, ...]
    """In the order of the definition; those without a run that is done are left out."""

    @property
    def seeds(self) -> list[int]:
        """Seeds of at least one row."""
        return sorted({seed for row in self.rows for seed in row.seeds})

    @property
    def test_sources(self) -> list[str]:
        """Test sources that have scores of their own."""
        names = (name for row in self.rows for name in row.scores if " " in name)
        return list(dict.fromkeys(name.partition(" ")[0] for name in names))

    def columns(self, names: Sequence[str], source: str = "") -> list[str]:
        """Those of these metrics that a row has, with the name of the test source before them."""
        full = [f"{source} {name}".strip() for name in names]
        return [name for name in full if any(name in row.scores for row in self.rows)]


def summarize(name: str, scores: Sequence[Score], about: About) -> TableSummary:
    """Mean and spread of each row of a table."""
    table = TABLES[name]
    found: dict[str, dict[int, dict[str, float]]] = {}
    for score in scores:
        found.setdefault(score.row, {}).setdefault(score.seed, {})[score.metric] = score.value
    reference = found.get(table.reference, {})
    rows = []
    for row in table.rows:
        seeds = found.get(row.label, {})
        if not seeds:
            continue
        metrics = list(dict.fromkeys(name for of_seed in seeds.values() for name in of_seed))
        leads = {} if row.label == table.reference else _leads(reference, seeds, metrics)
        spreads = {name: Spread.of([s[name] for s in seeds.values() if name in s]) for name in metrics}
        rows.append(RowSummary(row.label, row.paper, tuple(sorted(seeds)), spreads, leads))
    return TableSummary(name, table, about, tuple(rows))


def _leads(
    reference: dict[int, dict[str, float]], row: dict[int, dict[str, float]], metrics: Sequence[str]
) -> dict[str, Spread]:
    """Reference - row, over the seeds that both have."""
    leads = {}
    for name in metrics:
        both = [s for s in reference if name in reference[s] and name in row.get(s, {})]
        if both:
            leads[name] = Spread.of([reference[s][name] - row[s][name] for s in both])
    return leads
