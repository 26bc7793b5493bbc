"""The report page: numbers and pictures in the order a reader asks for them, rendered from one template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from capfilt.pipeline.evaluation.scores import score_table
from capfilt.pipeline.report.gallery import (
    PAIRS_OF_VERDICTS,
    SECTIONS,
    Card,
    Section,
    duplicate_cards,
    gallery,
    printable,
)
from capfilt.pipeline.report.numbers import count, duration, label, number, percent, probability, signed
from capfilt.pipeline.report.tables import RunTables
from capfilt.pipeline.report.thresholds import (
    TABLE_THRESHOLDS,
    histograms,
    score_arrays,
    single_threshold,
    sweep,
    sweep_chart,
    sweep_names,
)
from capfilt.stages.status import STATUSES

if TYPE_CHECKING:
    from capfilt.pipeline.report.inputs import ReportInputs

TEMPLATES = Path(__file__).with_name("templates")


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
        copied=duplicate_cards(inputs.duplicates, inputs.read_image),
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
