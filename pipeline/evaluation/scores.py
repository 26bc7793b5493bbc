"""NEW FILE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def model_order(model: str) -> tuple[str, int, str]:
    """Sort key of "pretrain.0", "pretrain.1", …, "pretrain.10"."""
    name, _, number = model.rpartition(".")
    return (name, int(number), "") if number.isdigit() else (model, -1, model)


def gain(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    """last - first of every metric both have."""
    return {name: last[name] - first[name] for name in first if name in last}


@dataclass(frozen=True)
class ScoreTable:
    """Metrics of several models, as `score_table` orders them."""

    columns: list[str]
    rows: list[tuple[str, Mapping[str, float]]]
    best: dict[str, float]
    gains: dict[str, float]
    """Last model - first model; empty for one model."""
    ends: tuple[str, str]
    """First and last model."""


def score_table(scores: Mapping[str, Mapping[str, float]]) -> ScoreTable | None:
    """Metrics by model in the order of the rounds, the best of each column, and the last's gain on the first."""
    if not scores:
        return None
    models = sorted(scores, key=model_order)
    columns = sorted({name for row in scores.values() for name in row}, key=_column_order)
    best = {name: max(row[name] for row in scores.values() if name in row) for name in columns}
    gains = gain(scores[models[0]], scores[models[-1]]) if len(models) > 1 else {}
    rows = [(model, scores[model]) for model in models]
    return ScoreTable(columns, rows, best, gains, (models[0], models[-1]))


def _column_order(metric: str) -> tuple[int, int, str]:
    """By kind of metric, then by the k in "@k" as a number."""
    kind, _, k = metric.partition("@")
    kinds = ("itc_tr", "itc_ir", "tr", "ir", "cider", "bleu", "rouge_l")
    return kinds.index(kind) if kind in kinds else len(kinds), int(k or 0), metric
