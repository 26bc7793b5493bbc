"""The report page: numbers and pictures in the order a reader asks for them, rendered from one template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from capfilt.pipeline.console.summary import gain, model_order
from capfilt.pipeline.report.charts import Line, curves, histogram
from capfilt.pipeline.report.gallery import (
    PAIRS_OF_VERDICTS,
    SECTIONS,
    Card,
    Section,
    copied,
    gallery,
    printable,
)
from capfilt.pipeline.report.tables import SCORE_BINS, Row, RunTables
from capfilt.stages.status import STATUSES

if TYPE_CHECKING:
    from capfilt.pipeline.report.build import ReportInputs

TEMPLATES = Path(__file__).with_name("templates")
HISTOGRAM_BARS = 40
SWEEP = tuple(round(step / 50, 2) for step in range(51))
TABLE_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


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


Bins = dict[tuple[str, bool | None], np.ndarray]
"""(origin, is planted noise or None) → counts [SCORE_BINS]."""


def render_page(
    inputs: ReportInputs, tables: RunTables, metrics: Mapping[str, Any], drift: Mapping[str, Any]
) -> str:
    """report.html. Everything a user or the web wrote is escaped by the template."""
    settings = tables.settings()
    threshold = single_threshold(settings)
    bins = score_arrays(tables.score_bins())
    sections = gallery(tables.examples(inputs.examples_per_section), inputs.read_image)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": percent,
        "signed": signed,
        "count": count,
        "duration": duration,
        "printable": printable,
        "number": number,
        "probability": probability,
        "label": label,
    }
    return environment.get_template("report.html.j2").render(
        inputs=inputs,
        metrics=metrics,
        settings=settings,
        threshold=threshold,
        origins=tables.origin_rows(),
        noise=tables.noise_rows(),
        planted=tables.planted_rows(),
        statuses=tables.status_rows(),
        sources=tables.source_rows(),
        hosts=tables.host_rows(),
        shards=tables.shard_rows(),
        retryable=[name for name, status in STATUSES.items() if status.retryable],
        copied=copied(inputs.duplicates, inputs.read_image),
        histograms=histograms(bins, threshold),
        sweep_chart=sweep_chart(bins, threshold),
        sweep_rows=sweep(bins, TABLE_THRESHOLDS),
        sweep_columns=sweep_names(bins),
        retrieval=score_table(metrics["retrieval"]),
        captions=score_table(metrics["caption"]),
        drift=drift_rows([*inputs.previous, {"metrics": metrics, "drift": drift}]),
        gallery=sections,
        highlights=highlights(sections),
        candidate_glob=candidate_glob(inputs.candidate_files),
        seconds=sorted(inputs.seconds.items(), key=lambda item: -item[1]),
    )


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


def drift_rows(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per round and origin: noise ratio, acceptance and the diversity of the texts."""
    rows = []
    for report in reports:
        metrics, texts = report["metrics"], (report.get("drift") or {}).get("texts") or {}
        for origin, ratio in sorted(metrics["noise_ratio"].items(), reverse=True):
            rows.append(
                {"round": metrics["round"], "origin": origin, "noise_ratio": ratio}
                | (texts.get(origin) or {})
            )
    return sorted(rows, key=lambda row: (row["origin"] != "synthetic", row["origin"], row["round"]))


def highlights(sections: Sequence[Section]) -> list[tuple[str, Card]]:
    """The first readable picture of each pair of verdicts, for the top of the page; none without all four."""
    found = []
    for name in PAIRS_OF_VERDICTS:
        title = SECTIONS[name][0]
        cards = [
            card for section in sections if section.title == title for card in section.cards if card.picture
        ]
        found += [(title, card) for card in cards[:1]]
    return found if len(found) == len(PAIRS_OF_VERDICTS) else []


def candidate_glob(files: Sequence[str]) -> str:
    """A glob for SQL over candidate files <round>/<source>/<shard>.parquet; "" for no files."""
    return f"{files[0].rsplit('/', 2)[0]}/**/*.parquet" if files and files[0].count("/") > 1 else ""


def percent(value: float | None, digits: int = 1) -> str:
    """0.1234 → "12.3 %"; None → an en dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def label(metric: str) -> str:
    """A metric's name as papers print it: "itc_tr@1" → "ITC TR@1", "bleu@4" → "BLEU-4"."""
    printed = {"cider": "CIDEr", "rouge_l": "ROUGE-L"}
    return printed.get(metric) or metric.upper().replace("_", " ").replace("BLEU@", "BLEU-")


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def probability(value: float) -> str:
    """Three digits, and never 0.000 or 1.000 for a score that is not."""
    if 0 < value < 0.0005:
        return "<\u202f0.001"
    return ">\u202f0.999" if 0.9995 <= value < 1 else f"{value:.3f}"


def signed(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def count(value: int | None) -> str:
    """1234567 → "1 234 567" with narrow spaces that do not break."""
    return "–" if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
