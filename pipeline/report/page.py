"""The report page, rendered from one template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from capfilt import __version__
from capfilt.pipeline.evaluation.scores import build_score_table
from capfilt.pipeline.report.charts import draw_trend
from capfilt.pipeline.report.database import SAMPLED_FILES
from capfilt.pipeline.report.formats.values import (
    format_count,
    format_duration,
    format_interval,
    format_number,
    format_percent,
    format_probability,
    format_rate,
    format_signed,
    metric_label,
    to_printable,
)
from capfilt.pipeline.report.gallery.cards import (
    MAX_DUPLICATES,
    build_duplicate_cards,
    build_gallery,
    fit_examples,
    gallery_filters,
    select_highlights,
)
from capfilt.pipeline.report.gallery.thumbnails import encode_thumbnails
from capfilt.pipeline.report.inputs import ReportInputs, RoundReport
from capfilt.pipeline.report.metrics_file import Funnel
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
from capfilt.stages.status import STATUSES, SUCCESS

GROUP_ROWS = 40
"""Rows of a table by a property on the page."""
TEMPLATES = Path(__file__).with_name("templates")

FILTERS = {
    "count": format_count,
    "duration": format_duration,
    "interval": format_interval,
    "label": metric_label,
    "number": format_number,
    "percent": format_percent,
    "printable": to_printable,
    "probability": format_probability,
    "rate": format_rate,
    "signed": format_signed,
    "trend": draw_trend,
}


def make_environment(*folders: Path) -> jinja2.Environment:
    """The templates of these folders and of the report, with its filters. All values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= FILTERS
    return environment


def render_page(inputs: ReportInputs, tables: RoundTables, report: RoundReport) -> str:
    """Render report.html. The template escapes all values."""
    environment = make_environment()
    values = {
        "inputs": inputs,
        "version": __version__,
        "metrics": report.metrics,
        "retrieval": build_score_table(report.metrics.retrieval),
        "captions": build_score_table(report.metrics.caption),
        "by_source": {
            source: (
                build_score_table(report.metrics.retrieval_by_source[source]),
                build_score_table(report.metrics.caption_by_source.get(source, {})),
            )
            for source in sorted(report.metrics.retrieval_by_source)
        },
        "drift": drift_rows([*inputs.previous, report]),
        "diversity": {origin: texts for origin, texts in report.drift["texts"].items() if texts},
        "alarms": report.drift["alarms"],
        "earlier_alarms": [
            (each.metrics.round, alarm) for each in inputs.previous for alarm in each.drift.get("alarms", [])
        ],
        "common_texts": tables.common_texts(),
        "sampled_files": SAMPLED_FILES,
        "groups": report.groups,
        "group_rows": GROUP_ROWS,
        "seconds": sorted(inputs.seconds.items(), key=lambda item: -item[1]),
        "funnel": _funnel_steps(report.metrics.funnel),
    }
    values |= _row_values(tables) | _score_values(tables) | _image_values(inputs, tables)
    values["sections"] = _choose_sections(inputs, values)
    return environment.get_template("report.html.j2").render(values)


SECTIONS = {
    "overview": "Overview",
    "noise": "Noise",
    "groups": "Groups",
    "filter": "Filter",
    "texts": "Texts",
    "models": "Models",
    "tasks": "Downstream tasks",
    "drift": "Drift",
    "rows": "Rows",
    "hosts": "Hosts",
    "copies": "Most copied images",
    "examples": "Examples",
    "run": "Run",
}
"""Sections of the page in order: id, which is also the name of the template, and title."""


def _choose_sections(inputs: ReportInputs, values: Mapping[str, Any]) -> dict[str, str]:
    """The sections that have something to show."""
    shown = {
        "noise": inputs.round > 0,
        "groups": values["groups"],
        "filter": values["histograms"],
        "texts": values["diversity"],
        "models": values["retrieval"] or values["captions"],
        "tasks": inputs.tasks_by_start,
        "drift": inputs.previous,
        "rows": values["statuses"],
        "hosts": values["hosts"],
        "copies": values["copied"],
        "examples": values["gallery"],
        "run": inputs.config or inputs.origin or values["seconds"] or values["metrics"].stages,
    }
    return {id_: title for id_, title in SECTIONS.items() if shown.get(id_, True)}


def _funnel_steps(funnel: Funnel | None) -> list[tuple[str, int, float | None]]:
    """(step, number, share of the rows) of each step; pairs are no share of the rows. [] without rows."""
    if funnel is None or not funnel.rows:
        return []
    return [
        ("rows of the manifests", funnel.rows, 1.0),
        ("images stored", funnel.stored, funnel.stored / funnel.rows),
        ("different images", funnel.different, funnel.different / funnel.rows),
        ("different images with a kept text", funnel.kept_images, funnel.kept_images / funnel.rows),
        ("kept pairs of image and text", funnel.kept_pairs, None),
    ]


def drift_rows(reports: Sequence[RoundReport]) -> list[dict[str, Any]]:
    """One row per round and origin, synthetic texts first: noise ratio and diversity of the texts."""
    rows = []
    for report in reports:
        texts = report.drift.get("texts") or {}
        for origin, ratio in report.metrics.noise_ratio.items():
            row = {"round": report.metrics.round, "origin": origin, "noise_ratio": ratio}
            rows.append(row | (texts.get(origin) or {}))
    return sorted(rows, key=lambda row: (row["origin"] != "synthetic", row["origin"], row["round"]))


def _row_values(tables: RoundTables) -> dict[str, Any]:
    """What became of the rows of the manifests."""
    statuses = tables.status_rows()
    return {
        "statuses": statuses,
        "all_rows": sum(row["n"] for row in statuses),
        "stored": sum(row["n"] for row in statuses if row["status"] == SUCCESS),
        "sources": tables.source_rows(),
        "hosts": tables.host_rows(by="rows"),
        "failing_hosts": [row for row in tables.host_rows() if row["failed"]],
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
        "captioners": tables.captioner_rows(),
        "planted": tables.planted_rows(),
        "histograms": draw_histograms(scores, threshold),
        "sweep_chart": draw_sweep(scores, threshold),
        "sweep_rows": sweep_thresholds(scores, TABLE_THRESHOLDS),
        "sweep_columns": sweep_columns(scores),
    }


def _image_values(inputs: ReportInputs, tables: RoundTables) -> dict[str, Any]:
    """Everything that shows an image."""
    found = tables.examples(inputs.examples_per_section)
    examples = fit_examples(found)
    copied = inputs.duplicates[:MAX_DUPLICATES]
    copied_places = [(row["source"], row["key"]) for row in copied]
    thumbnails = encode_thumbnails(
        [*((example.source, example.key) for example in examples), *copied_places], inputs.read_image
    )
    gallery = build_gallery(examples, thumbnails)
    return {
        "gallery": gallery,
        "left_out": len(found) - len(examples),
        "filters": gallery_filters(gallery),
        "highlights": select_highlights(gallery),
        "copied": build_duplicate_cards(copied, thumbnails, tables.urls(copied_places) if copied else {}),
    }
