"""The paper's Table 1 over several seeds: which texts a model was pretrained on, and its scores."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TEXTS = {
    "pretrain.0": "none",
    "human_only": "human only",
    "captioner_only": "captioner only",
    "filter_only": "filter only",
    "pretrain.1": "both",
}
"""Model -> the row that it is: what was bootstrapped, as in the paper's Table 1."""
METHOD = "pretrain.1"
"""The row that all others are compared with."""

SeedScores = Mapping[str, Mapping[str, float]]
"""{model: {metric: percent}} of one seed."""


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds."""

    mean: float
    deviation: float | None
    """Standard deviation of a single seed's figure (n - 1 in the denominator); None for one seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class AblationRow:
    """One row of the table."""

    model: str
    texts: str
    """What was bootstrapped."""
    scores: dict[str, Spread]
    """By metric."""
    lead: dict[str, Spread]
    """By metric: how far `METHOD` is ahead of this row, as the differences within each seed."""


def build_ablation(scores: Mapping[int, SeedScores]) -> list[AblationRow]:
    """The rows of the table from the scores of each seed, in the order of `TEXTS`.

    A model or metric that some seed lacks is left out.
    """
    seeds = list(scores.values())
    rows = []
    for model, texts in TEXTS.items():
        if not all(model in seed and METHOD in seed for seed in seeds):
            continue
        metrics = [name for name in seeds[0][model] if all(name in seed[model] for seed in seeds)]
        leads = {
            name: [seed[METHOD][name] - seed[model][name] for seed in seeds]
            for name in metrics
            if model != METHOD and all(name in seed[METHOD] for seed in seeds)
        }
        rows.append(
            AblationRow(
                model=model,
                texts=texts,
                scores={name: Spread.of([seed[model][name] for seed in seeds]) for name in metrics},
                lead={name: Spread.of(values) for name, values in leads.items()},
            )
        )
    return rows
