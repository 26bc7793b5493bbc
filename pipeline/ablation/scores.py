"""The scores of a table: read from the reports of its runs, and written as one Parquet file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET

from capfilt import __version__
from capfilt.pipeline.ablation.definitions import TableRow
from capfilt.pipeline.ablation.variants import VariantRun
from capfilt.pipeline.plan import plan
from capfilt.pipeline.preflight.check import find_devices
from capfilt.pipeline.report.metrics_file import RoundMetrics, read_metrics
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import scores_file
from capfilt.stages.storage.run_store import RunStore
from capfilt.stages.storage.store import Store, encode_json

SCORES_SCHEMA = pa.schema(
    [
        ("row", pa.string()),
        ("run", pa.string()),
        ("model", pa.string()),
        ("seed", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)


_ABOUT = b"capfilt.ablation"
"""Key of the Parquet metadata that holds `About` as JSON."""


@dataclass(frozen=True)
class About:
    """How a table was made."""

    command: str
    version: str
    """Of capfilt."""
    machine: str
    """Cores and GPUs of the driver's machine."""
    seconds: float
    """Seconds of the nodes that the runs of the table have made themselves, added up."""


@dataclass(frozen=True)
class Score:
    """One figure of one row with one seed."""

    row: str
    """Label of the row."""
    run: str
    """Name of the run directory."""
    model: str
    seed: int
    metric: str
    """Of `metrics.json`, with the name of the test source before it where it is of one; or one of
    `noise_web`, `noise_synthetic` and `kept` (percent), and `pairs`."""
    value: float


def read_scores(rows: Sequence[TableRow], runs: Sequence[VariantRun]) -> list[Score]:
    """Every figure of the rows whose runs are done; rows without a report are left out."""
    found = []
    for row in rows:
        for run in (run for run in runs if run.variant == row.variant):
            for metric, value in _row_scores(row, run):
                found.append(Score(row.label, run.folder, row.model, run.seed, metric, value))
    return found


def _row_scores(row: TableRow, run: VariantRun) -> Iterator[tuple[str, float]]:
    store = RunStore(run.config.run.dir, run.config.run.storage_options)
    metrics = read_metrics(store, row.round)
    if metrics is None:
        return
    scores = flat_scores(metrics).get(row.model)
    if scores is None:
        return
    yield from scores.items()
    ledger = Ledger(store)
    if (training := ledger.node(row.model)) is not None and "pairs" in training.counts:
        yield "pairs", training.counts["pairs"]
    if row.noise:
        yield from ((f"noise_{o}", 100 * r) for o, r in metrics.noise_ratio.items() if r is not None)
        bootstrap = ledger.node(f"bootstrap.{row.round}")
        verdicts = (bootstrap.counts.get("candidates") or {}) if bootstrap is not None else {}
        kept = sum(of.get("kept", 0) for of in verdicts.values())
        judged = kept + sum(of.get("dropped", 0) for of in verdicts.values())
        if judged:
            yield "kept", 100 * kept / judged


def flat_scores(metrics: RoundMetrics) -> dict[str, dict[str, float]]:
    """{model: {metric: percent}}; the metrics of a test source have the prefix "<source> "."""
    scores: dict[str, dict[str, float]] = {}
    parts = [("", metrics.retrieval), ("", metrics.caption)]
    for by_source in (metrics.retrieval_by_source, metrics.caption_by_source):
        parts += [(f"{source} ", of_source) for source, of_source in sorted(by_source.items())]
    for prefix, part in parts:
        for model, values in part.items():
            scores.setdefault(model, {}).update({f"{prefix}{name}": v for name, v in values.items()})
    return scores


def describe_runs(runs: Sequence[VariantRun], command: str) -> About:
    """How the runs of a table were made, on this machine."""
    devices = find_devices(runs[0].config)
    machine = ", ".join([f"{devices['cpus']} CPU cores", *devices["gpus"]])
    seconds = 0.0
    for run in runs:
        ledger = Ledger(RunStore(run.config.run.dir, run.config.run.storage_options))
        records = (ledger.node(name) for name in plan(run.config))
        seconds += sum(record.seconds for record in records if record and record.taken_from is UNSET)
    return About(command, __version__, machine, round(seconds, 1))


def write_scores(store: Store, table: str, scores: Iterable[Score], about: About) -> str:
    """Write the scores of a table into the folder of an ablation; returns the address of the file."""
    schema = SCORES_SCHEMA.with_metadata({_ABOUT: encode_json(asdict(about))})
    rows = pa.Table.from_pylist([asdict(score) for score in scores], schema=schema)
    store.put(scores_file(table), encode_parquet(rows))
    return store.address(scores_file(table))


def load_scores(store: Store, table: str) -> tuple[list[Score], About] | None:
    """The scores of a table as they were written; None if there are none."""
    data = store.find(scores_file(table))
    if data is None:
        return None
    rows = pq.read_table(io.BytesIO(data))
    return [Score(**row) for row in rows.to_pylist()], About(**json.loads(rows.schema.metadata[_ABOUT]))
