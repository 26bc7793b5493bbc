"""Scores of several models side by side: order of models and metrics, best values, gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

METRIC_ORDER = (
    "itc_tr",
    "itc_ir",
    "itc_r_mean",
    "tr",
    "ir",
    "r_mean",
    "cider",
    "bleu",
    "rouge_l",
    "meteor",
    "spice",
)
"""Order of the columns by the part of a metric's name before "@"."""


@dataclass(frozen=True)
class ScoreTable:
    """Metrics of several models, in the order in which they are shown."""

    columns: list[str]
    """Names of metrics."""
    rows: list[tuple[str, Mapping[str, float]]]
    """(model, {metric: value}) in the order of the rounds."""
    best: dict[str, float]
    """Highest value of each metric."""
    gains: dict[str, float]
    """Last model - first model; empty for one model."""

    @property
    def first_model(self) -> str:
        return self.rows[0][0]

    @property
    def last_model(self) -> str:
        return self.rows[-1][0]


def build_score_table(scores: Mapping[str, Mapping[str, float]]) -> ScoreTable | None:
    """Order {model: {metric: value}} for display; None when no model has scores."""
    if not scores:
        return None
    models = sorted(scores, key=model_sort_key)
    columns = sorted({name for row in scores.values() for name in row}, key=_metric_sort_key)
    return ScoreTable(
        columns=columns,
        rows=[(model, scores[model]) for model in models],
        best={name: max(row[name] for row in scores.values() if name in row) for name in columns},
        gains=score_gains(scores[models[0]], scores[models[-1]]) if len(models) > 1 else {},
    )


def score_gains(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    """last - first for every metric that both have."""
    return {name: last[name] - first[name] for name in first if name in last}


def model_sort_key(model: str) -> tuple[int, int, str]:
    """Sort key that orders "pretrain.0", controls, "pretrain.1", …, "pretrain.10": what the method is
    compared with comes before it."""
    name, _, number = model.rpartition(".")
    if not number.isdigit():
        return (1, 0, model)
    return (0 if number == "0" else 2, int(number), name)


def _metric_sort_key(metric: str) -> tuple[int, int, str]:
    """Kind of metric, then the k of "@k" as a number."""
    kind, _, k = metric.partition("@")
    return METRIC_ORDER.index(kind) if kind in METRIC_ORDER else len(METRIC_ORDER), int(k or 0), metric
