"""A round's report: metrics.json for programs, Parquet tables for SQL, report.html for people.

`report.html` is one file without a script, a font or an address outside itself: it can be mailed and archived.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.pipeline.report.inputs import ReportInputs
from capfilt.pipeline.report.page import render_page
from capfilt.pipeline.report.tables import Row, RunTables, by_source
from capfilt.stages.status import STATUSES
from capfilt.stages.storage.store import Store

NOISE_SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("judged", pa.int64()),
        ("kept", pa.int64()),
        ("dropped", pa.int64()),
        ("noise_ratio", pa.float64()),
    ]
)


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
"""statuses.parquet: what became of the rows, by shard. `retryable`: `capfilt retry` asks for them again."""

HOST_SCHEMA = pa.schema(
    [
        ("round", pa.int32()),
        ("host", pa.string()),
        ("rows", pa.int64()),
        ("stored", pa.int64()),
        ("failed", pa.int64()),
        ("commonest", pa.string()),
        ("commonest_rows", pa.int64()),
    ]
)
"""hosts.parquet: the hosts with most failures, and the commonest of these."""
HOSTS_LISTED = 10_000


def build_report(inputs: ReportInputs, out: Store) -> dict[str, Any]:
    """Write report.html, noise.parquet, statuses.parquet, hosts.parquet, drift.json and, last, metrics.json into
    `out`; return the metrics.

    The same inputs give the same bytes.
    """
    tables = RunTables(inputs.candidate_files, inputs.corpus_files, inputs.storage_options)
    metrics = round_metrics(inputs, tables)
    drift = {
        "round": inputs.round,
        "texts": tables.drift(),
        "acceptance": {row["origin"]: _acceptance(row) for row in tables.origin_rows()},
    }
    out.put("report.html", render_page(inputs, tables, metrics, drift).encode())
    out.put("noise.parquet", rows_parquet(tables.noise_rows(), NOISE_SCHEMA, inputs.round))
    statuses = [
        {
            **row,
            "rows": row["n"],
            "retryable": row["status"] in STATUSES and STATUSES[row["status"]].retryable,
        }
        for row in tables.outcome_rows()
    ]
    out.put("statuses.parquet", rows_parquet(statuses, STATUS_SCHEMA, inputs.round))
    out.put("hosts.parquet", rows_parquet(tables.host_rows(HOSTS_LISTED), HOST_SCHEMA, inputs.round))
    out.put_json("drift.json", drift)
    out.put_json("metrics.json", metrics)
    return metrics


def round_metrics(inputs: ReportInputs, tables: RunTables) -> dict[str, Any]:
    """The content of metrics.json. Noise ratios are dropped / judged; retrieval and captions in percent.

    "planted_noise" is the share of noise among the web texts that were judged and have a truth, so that it
    compares with the web's noise ratio over the same texts.
    """
    origins = tables.origin_rows()
    return {
        "round": inputs.round,
        "counts": {row["status"]: row["n"] for row in tables.status_rows()},
        "noise_ratio": {row["origin"]: row["noise_ratio"] for row in origins},
        "noise_ratio_by_source": by_source(tables.noise_rows()),
        "planted_noise": next((row["planted"] for row in origins if row["origin"] == "web"), None),
        "filter": tables.filter_quality(),
        "retrieval": dict(inputs.evaluation.get("retrieval") or {}),
        "caption": dict(inputs.evaluation.get("caption") or {}),
        "seconds": dict(inputs.seconds),
    }


def previous_reports(reports: Store, round: int) -> list[dict[str, Any]]:
    """{"metrics", "drift"} of every report below `reports` with a number under `round`, in order."""
    found = []
    for number in range(round):
        if reports.exists(f"{number}/metrics.json"):
            drift = f"{number}/drift.json"
            found.append(
                {
                    "metrics": reports.read_json(f"{number}/metrics.json"),
                    "drift": reports.read_json(drift) if reports.exists(drift) else {},
                }
            )
    return found


def rows_parquet(rows: Sequence[Row], schema: pa.Schema, round: int) -> bytes:
    """Rows of a report as Parquet, with the round beside them."""
    shown = [{name: row.get(name) for name in schema.names} | {"round": round} for row in rows]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(shown, schema=schema), sink)
    return sink.getvalue()


def _acceptance(row: Row) -> float | None:
    return None if row["noise_ratio"] is None else 1 - row["noise_ratio"]
