"""Writing of a round's report: metrics.json for programs, Parquet tables for SQL, report.html for people.

report.html is one file without scripts, fonts or external addresses, so that it can be mailed and archived.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.pipeline.evaluation.drift import find_alarms
from capfilt.pipeline.report.inputs import ReportInputs, RoundReport
from capfilt.pipeline.report.metrics_file import RoundMetrics, write_metrics
from capfilt.pipeline.report.page import render_page
from capfilt.pipeline.report.tables import RoundTables, Row
from capfilt.stages.status import STATUSES
from capfilt.stages.storage.layout import report_folder
from capfilt.stages.storage.store import Store

VERDICT_COLUMNS = (
    ("judged", pa.int64()),
    ("kept", pa.int64()),
    ("dropped", pa.int64()),
    ("noise_ratio", pa.float64()),
    ("noise_low", pa.float64()),
    ("noise_high", pa.float64()),
)
"""Counts of verdicts, and the noise ratio with its interval: columns of two tables."""
NOISE_SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("source", pa.string()),
        ("origin", pa.string()),
        *VERDICT_COLUMNS,
    ]
)
"""noise.parquet: verdicts by source and origin. The noise ratio is between the limits of its 95 % Wilson
interval."""

CAPTIONER_SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("source", pa.string()),
        ("captioner", pa.string()),
        *VERDICT_COLUMNS,
    ]
)
"""captioners.parquet: verdicts on synthetic texts by source and captioner. Written if there are several
captioners, or captions from elsewhere."""

STATUS_SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("source", pa.string()),
        ("shard", pa.int64()),
        ("status", pa.string()),
        ("retryable", pa.bool_()),
        ("rows", pa.int64()),
    ]
)
"""statuses.parquet: rows by shard and status. `retryable`: `capfilt retry` can process these rows again."""

HOST_SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("host", pa.string()),
        ("rows", pa.int64()),
        ("stored", pa.int64()),
        ("failed", pa.int64()),
        ("commonest", pa.string()),
        ("commonest_rows", pa.int64()),
        *VERDICT_COLUMNS,
    ]
)
"""hosts.parquet: the hosts with most failures; `commonest` is their most frequent failure. The verdicts are
those on the web texts of their images."""

GROUP_SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("by", pa.string()),
        ("value", pa.string()),
        ("origin", pa.string()),
        *VERDICT_COLUMNS,
    ]
)
"""groups.parquet: verdicts by a property of the candidates; written if the report is asked for one."""

MAX_LISTED_HOSTS = 10_000
"""Rows of hosts.parquet."""


def build_report(inputs: ReportInputs, store: Store) -> RoundMetrics:
    """Write a round's report into a run directory and return its metrics.

    The files are report.html, noise.parquet, statuses.parquet, hosts.parquet, drift.json and, written last,
    metrics.json. The same inputs give the same bytes.
    """
    tables = RoundTables(
        inputs.candidate_files,
        inputs.corpus_files,
        inputs.storage_options,
        inputs.verdict_files,
        inputs.candidate_schema,
    )
    with closing(tables):
        return _write_report(inputs, tables, store / report_folder(inputs.round, inputs.verdicts), store)


def _write_report(inputs: ReportInputs, tables: RoundTables, out: Store, store: Store) -> RoundMetrics:
    groups = {name: tables.group_rows(name) for name in inputs.by}
    drift = _compute_drift(inputs, tables)
    report = RoundReport(_compute_metrics(inputs, tables, drift["alarms"]), drift, groups)
    out.put("report.html", render_page(inputs, tables, report).encode())
    out.put("noise.parquet", _encode_rows(tables.noise_rows(), NOISE_SCHEMA, inputs.round))
    out.put("statuses.parquet", _encode_rows(_status_rows(tables), STATUS_SCHEMA, inputs.round))
    if captioners := tables.captioner_rows():
        out.put("captioners.parquet", _encode_rows(captioners, CAPTIONER_SCHEMA, inputs.round))
    hosts = tables.host_rows(MAX_LISTED_HOSTS)
    out.put("hosts.parquet", _encode_rows(hosts, HOST_SCHEMA, inputs.round))
    if groups:
        rows = [row for of_name in groups.values() for row in of_name]
        out.put("groups.parquet", _encode_rows(rows, GROUP_SCHEMA, inputs.round))
    out.put_json("drift.json", report.drift)
    write_metrics(store, report.metrics)
    return report.metrics


def _compute_metrics(inputs: ReportInputs, tables: RoundTables, alarms: Sequence[str]) -> RoundMetrics:
    origins = tables.origin_rows()
    return RoundMetrics(
        round=inputs.round,
        verdicts=inputs.verdicts,
        counts={row["status"]: row["n"] for row in tables.status_rows()},
        noise_ratio={row["origin"]: row["noise_ratio"] for row in origins},
        noise_ratio_by_source=noise_ratio_by_source(tables.noise_rows()),
        noise_ratio_by_captioner=noise_ratio_by_source(tables.captioner_rows(), "captioner"),
        planted_noise=next((row["planted"] for row in origins if row["origin"] == "web"), None),
        filter=tables.filter_quality(),
        calibration=inputs.calibration,
        retrieval=inputs.retrieval,
        caption=inputs.caption,
        retrieval_by_source=dict(inputs.retrieval_by_source),
        caption_by_source=dict(inputs.caption_by_source),
        tasks={name: list(of.values())[-1] for name, of in inputs.tasks_by_start.items()},
        tasks_by_start=dict(inputs.tasks_by_start),
        seconds=dict(inputs.seconds),
        validation=dict(inputs.validation),
        funnel=tables.funnel(inputs.web_sources) if inputs.round else None,  # round 0 keeps nothing
        stages=list(inputs.stages),
        alarms=list(alarms),
    )


def _compute_drift(inputs: ReportInputs, tables: RoundTables) -> dict[str, Any]:
    """The content of drift.json."""
    ratios = {row["origin"]: row["noise_ratio"] for row in tables.origin_rows()}
    drift: dict[str, Any] = {
        "round": inputs.round,
        "texts": tables.drift(),
        "acceptance": {origin: None if ratio is None else 1 - ratio for origin, ratio in ratios.items()},
    }
    return drift | {"alarms": find_alarms(drift, inputs.previous[-1].drift if inputs.previous else None)}


def noise_ratio_by_source(rows: Sequence[Row], column: str = "origin") -> dict[str, dict[str, float | None]]:
    """{source: {origin: noise ratio}} from rows of `RoundTables.noise_rows`.

    Args:
        column: `captioner` for rows of `RoundTables.captioner_rows`.
    """
    found: dict[str, dict[str, float | None]] = {}
    for row in rows:
        found.setdefault(row["source"], {})[row[column]] = row["noise_ratio"]
    return found


def _status_rows(tables: RoundTables) -> list[Row]:
    return [
        row | {"rows": row["n"], "retryable": row["status"] in STATUSES and STATUSES[row["status"]].retryable}
        for row in tables.outcome_rows()
    ]


def _encode_rows(rows: Sequence[Row], schema: pa.Schema, round: int) -> bytes:
    """Rows as a Parquet file of this schema, with the number of the round in each row."""
    columns = [{name: row.get(name) for name in schema.names} | {"round": round} for row in rows]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(columns, schema=schema), sink)
    return sink.getvalue()
