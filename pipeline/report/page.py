"""The report page, rendered from one template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from capfilt.pipeline.evaluation.scores import build_score_table
from capfilt.pipeline.report.gallery import (
    build_duplicate_cards,
    build_gallery,
    select_highlights,
    to_printable,
)
from capfilt.pipeline.report.inputs import ReportInputs, RoundReport
from capfilt.pipeline.report.numbers import (
    format_count,
    format_duration,
    format_number,
    format_percent,
    format_probability,
    format_signed,
    metric_label,
)
from capfilt.pipeline.report.tables import RoundTables
from capfilt.pipeline.report.thresholds import (
    TABLE_THRESHOLDS,
    common_threshold,
    count_scores,
    draw_histograms,
    draw_sweep,
    sweep_columns,
    sweep_thresholds,
)
from capfilt.stages.status import STATUSES

TEMPLATES = Path(__file__).with_name("templates")

FILTERS = {
    "count": format_count,
    "duration": format_duration,
    "label": metric_label,
    "number": format_number,
    "percent": format_percent,
    "printable": to_printable,
    "probability": format_probability,
    "signed": format_signed,
}


def render_page(inputs: ReportInputs, tables: RoundTables, report: RoundReport) -> str:
    """Render report.html. The template escapes all values."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= FILTERS
    values = {
        "inputs": inputs,
        "metrics": report.metrics,
        "retrieval": build_score_table(report.metrics.retrieval),
        "captions": build_score_table(report.metrics.caption),
        "drift": drift_rows([*inputs.previous, report]),
        "copied": build_duplicate_cards(inputs.duplicates, inputs.read_image),
        "candidate_glob": candidate_glob(inputs.candidate_files),
        "seconds": sorted(inputs.seconds.items(), key=lambda item: -item[1]),
    }
    values |= _row_values(tables) | _score_values(tables) | _example_values(inputs, tables)
    return environment.get_template("report.html.j2").render(values)


def drift_rows(reports: Sequence[RoundReport]) -> list[dict[str, Any]]:
    """One row per round and origin, synthetic texts first: noise ratio and diversity of the texts."""
    rows = []
    for report in reports:
        texts = report.drift.get("texts") or {}
        for origin, ratio in report.metrics.noise_ratio.items():
            row = {"round": report.metrics.round, "origin": origin, "noise_ratio": ratio}
            rows.append(row | (texts.get(origin) or {}))
    return sorted(rows, key=lambda row: (row["origin"] != "synthetic", row["origin"], row["round"]))


def candidate_glob(files: Sequence[str]) -> str:
    """A glob over candidate files <round>/<source>/<shard>.parquet for SQL; "" when there are none."""
    return f"{files[0].rsplit('/', 2)[0]}/**/*.parquet" if files and files[0].count("/") > 1 else ""


def _row_values(tables: RoundTables) -> dict[str, Any]:
    """What became of the rows of the manifests."""
    return {
        "statuses": tables.status_rows(),
        "sources": tables.source_rows(),
        "hosts": tables.host_rows(),
        "shards": tables.shard_rows(),
        "retryable": [name for name, status in STATUSES.items() if status.retryable],
    }


def _score_values(tables: RoundTables) -> dict[str, Any]:
    """Scores and verdicts of the filter."""
    settings = tables.settings()
    threshold = common_threshold(settings)
    scores = count_scores(tables.score_bins())
    return {
        "settings": settings,
        "origins": tables.origin_rows(),
        "noise": tables.noise_rows(),
        "planted": tables.planted_rows(),
        "histograms": draw_histograms(scores, threshold),
        "sweep_chart": draw_sweep(scores, threshold),
        "sweep_rows": sweep_thresholds(scores, TABLE_THRESHOLDS),
        "sweep_columns": sweep_columns(scores),
    }


def _example_values(inputs: ReportInputs, tables: RoundTables) -> dict[str, Any]:
    gallery = build_gallery(tables.examples(inputs.examples_per_section), inputs.read_image)
    return {"gallery": gallery, "highlights": select_highlights(gallery)}
