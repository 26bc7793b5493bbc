"""Figures of two runs side by side, and the differences between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from capfilt.pipeline.comparison.run import ComparedRun
from capfilt.pipeline.evaluation.intervals import difference_interval
from capfilt.pipeline.evaluation.scores import build_score_table, model_sort_key
from capfilt.pipeline.report.formats.values import metric_label
from capfilt.pipeline.report.tables import Row

Kind = Literal["count", "share", "number", "points"]
"""How a figure is written: points are scores in percent."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """One figure of both runs."""

    label: str
    kind: Kind
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        """B − A; None if one of them is unknown."""
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True)
class Ratio:
    """The noise ratio of the same texts, or of the same kind of texts, in both runs."""

    label: tuple[str, ...]
    """What is counted, such as source and origin."""
    a: Row | None
    """judged, kept, dropped, noise_ratio, noise_low and noise_high; None if A has no such texts."""
    b: Row | None

    @property
    def difference(self) -> float | None:
        """Noise ratio of B − that of A; None if one of them is unknown."""
        a, b = (None if row is None else row["noise_ratio"] for row in (self.a, self.b))
        return None if a is None or b is None else b - a

    @property
    def interval(self) -> Interval | None:
        """Of the difference, as if the texts of A and B were drawn independently."""
        if self.a is None or self.b is None:
            return None
        return difference_interval(
            (self.a["dropped"], self.a["judged"]), (self.b["dropped"], self.b["judged"])
        )


def pair_ratios(a: Sequence[Row], b: Sequence[Row], columns: Sequence[str]) -> list[Ratio]:
    """Noise ratios of A beside those of B with the same values in `columns`; what only B has is last."""

    def by_label(rows: Sequence[Row]) -> dict[tuple[str, ...], Row]:
        return {tuple("–" if row[c] is None else str(row[c]) for c in columns): row for row in rows}

    of_a, of_b = by_label(a), by_label(b)
    return [Ratio(label, of_a.get(label), of_b.get(label)) for label in dict.fromkeys([*of_a, *of_b])]


def compare_corpora(a: ComparedRun, b: ComparedRun) -> list[Figure]:
    """What is left of the rows of the web sources after each step."""
    funnels = [run.tables.funnel(run.web_sources) for run in (a, b)]
    steps = {
        "rows": "rows of the manifests",
        "stored": "images stored",
        "different": "different images",
        "kept_images": "different images with a kept text",
        "kept_pairs": "kept pairs of image and text",
    }
    return [
        Figure(label, "count", *(getattr(funnel, name) for funnel in funnels))
        for name, label in steps.items()
    ]


def compare_filters(a: ComparedRun, b: ComparedRun) -> list[Figure]:
    """How well each filter found planted noise; [] unless a run has known truth."""
    found = [run.tables.filter_quality() for run in (a, b)]
    if found == [None, None]:
        return []
    kinds: list[tuple[str, Kind, str]] = [
        ("auc", "number", "AUC of planted noise"),
        ("precision", "share", "precision"),
        ("recall", "share", "recall"),
    ]
    return [
        Figure(label, kind, *(getattr(each, name, None) for each in found)) for name, kind, label in kinds
    ]


def compare_texts(a: ComparedRun, b: ComparedRun) -> list[Figure]:
    """Diversity of the texts of each origin."""
    of_a, of_b = a.tables.drift(), b.tables.drift()
    kinds: list[tuple[str, Kind, str]] = [
        ("distinct_1", "share", "different words"),
        ("distinct_2", "share", "different pairs of words"),
        ("duplicate_share", "share", "repeated texts"),
        ("mean_words", "number", "words per text"),
    ]
    return [
        Figure(f"{origin}: {label}", kind, *(_value(texts.get(origin), name) for texts in (of_a, of_b)))
        for origin in dict.fromkeys([*of_a, *of_b])
        for name, kind, label in kinds
    ]


def compare_models(a: ComparedRun, b: ComparedRun) -> list[Figure]:
    """Scores of the last pretrained model that both have, by metric; [] if there is none."""
    figures = []
    for task in ("retrieval", "caption"):
        of_a, of_b = a.scores[task], b.scores[task]
        for model in sorted(set(of_a) & set(of_b), key=model_sort_key)[-1:]:
            both = {letter: scores[model] for letter, scores in (("A", of_a), ("B", of_b))}
            shown = build_score_table(both)
            figures += [
                Figure(f"{model}: {metric_label(name)}", "points", *(both[x].get(name) for x in "AB"))
                for name in (shown.columns if shown else ())
            ]
    return figures


def compare_groups(a: ComparedRun, b: ComparedRun, names: Iterable[str]) -> dict[str, list[Ratio]]:
    """Noise ratios by properties of the candidates and by origin."""
    return {
        name: pair_ratios(a.tables.group_rows(name), b.tables.group_rows(name), ("value", "origin"))
        for name in names
    }


def _value(of_origin: Any, name: str) -> float | None:
    return None if of_origin is None else of_origin[name]
