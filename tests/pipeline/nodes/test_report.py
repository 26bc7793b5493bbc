"""The report node."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.node import NodeResult, ValidationResult
from capfilt.pipeline.nodes import report
from capfilt.pipeline.nodes.report import collect_scores, scores_by_source
from capfilt.pipeline.prepare import open_run
from capfilt.pipeline.report.metrics_file import RoundMetrics, read_metrics
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.shards.records import CandidatesRecord, CorpusRecord, RowCounts, encode
from capfilt.stages.storage.layout import candidates_shard, corpus_shard
from capfilt.stages.storage.store import FileEntry, Store
from tests.pipeline.report.report_cases import page_of, write_run

SECONDS = {"read": 0.5, "fetch": 2.0, "caption": 4.0, "filter": 1.0}
"""Of one shard, in a pass that downloads and judges."""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """The report tests' run with its records; its source a is web, b is human."""
    folder = tmp_path / "it's a run"
    write_run(folder)
    shutil.rmtree(folder / "rounds/1/b")
    for path in (*folder.glob("corpus/*/*.parquet"), *folder.glob("rounds/*/*/*.parquet")):
        table = pq.read_table(path)  # the images are read too, and a key names the shard that has them
        place = table.schema.get_field_index("key")
        keys = pc.utf8_lpad(table["key"], 11, "0")
        pq.write_table(table.set_column(place, table.schema.field(place), keys), path)
    counts = {"a": RowCounts(8, {"success": 5, "http_404": 3}), "b": RowCounts(2, {"success": 2})}
    for source, rows in counts.items():
        file = FileEntry("000000.parquet", 0, "0" * 64)
        common = {"source": source, "shard": 0, "fingerprint": "f", "files": (file,), "rows": rows}
        records = {corpus_shard(source, 0).record: CorpusRecord(**common, seconds=SECONDS)}
        if source == "a":
            candidates = CandidatesRecord(**common, seconds=SECONDS, round=1, candidates={})
            records[candidates_shard(1, source, 0).record] = candidates
        for place, record in records.items():
            Store(str(folder)).put(place, encode(record))
    sources = {
        name: {"kind": kind, "rows": {"manifest": "m.csv"}} for name, kind in (("a", "web"), ("b", "human"))
    }
    checkpoints = {"captioner": {"checkpoint": "c"}, "filter": {"checkpoint": "f", "calibrate": {"pairs": 0}}}
    config = parse_config({"run": {"dir": str(folder)}, "sources": sources, **checkpoints}, "test")
    return open_run(config)


def test_funnel_counts_web_sources_and_stages_count_all(run_dir: RunDir) -> None:
    assert report.write_report(run_dir, 1) == read_metrics(run_dir.store, 1)
    metrics = read_metrics(run_dir.store, 1)
    assert metrics is not None and metrics.funnel is not None
    assert metrics.funnel.model_dump() == {
        "rows": 8, "stored": 5, "different": 5, "kept_images": 5, "kept_pairs": 6,
    }  # fmt: skip
    assert [(t.kind, t.stage, t.shards, t.images, t.seconds) for t in metrics.stages] == [
        ("corpus", "read", 2, 7, 1.0),
        ("corpus", "fetch", 2, 7, 4.0),
        ("candidates", "caption", 1, 5, 4.0),
        ("candidates", "filter", 1, 5, 1.0),
    ]


def test_validations_of_trainings_are_in_the_metrics_and_on_the_page(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ValidationResult(pairs=17, best_step=100, steps=[50, 100, 150], losses=[2.5, 1.25, 1.75])
    run_dir.ledger.finish("bootstrap.1", {}, NodeResult("", validation=found), 1.0)
    report.write_report(run_dir, 1)
    metrics = read_metrics(run_dir.store, 1)
    assert metrics is not None and metrics.validation == {"bootstrap.1": found}
    page = (Path(run_dir.store.path("")) / "reports/1/report.html").read_text()
    table = page.partition("Validation of the trainings")[2].partition("</table>")[0]
    assert "loss after 3 steps, lowest after step 100" in table
    assert all(f"<td>{value}</td>" in table for value in ("2.500", "1.250", "100", "150", "17"))


def test_page_says_how_it_was_made(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/capfilt", "run", "a b.yaml", "--set", "run.seed=1"])
    report.write_report(run_dir, 1)
    text = page_of(Path(run_dir.store.path())).section("run").text
    assert "command capfilt run 'a b.yaml' --set run.seed=1" in text
    assert f"run directory {run_dir.store.path()}" in text and "by capfilt 0." in text


def test_program_that_runs_as_a_module_has_the_name_of_the_command(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/x/pipeline/__main__.py", "report", "r"])
    assert report.describe_origin(run_dir.store)["command"] == "capfilt report r"


def test_command_of_the_page_prints_its_noise_ratios(run_dir: RunDir) -> None:
    metrics = report.write_report(run_dir, 1)
    *_, command = page_of(Path(run_dir.store.path())).all("pre")
    done = subprocess.run(["bash", "-c", command.text], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for origin, ratio in metrics.noise_ratio.items():
        (line,) = [line for line in done.stdout.splitlines() if f" {origin} " in line]
        assert float(line.strip("│ ").split("│")[1]) == pytest.approx(ratio)


def test_summary_line_shows_the_noise_ratios_also_of_origins_without_verdicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = RoundMetrics(round=1, noise_ratio={"web": 0.25, "synthetic": None})
    monkeypatch.setattr(report, "write_report", lambda run_dir, round_: metrics)
    node = SimpleNamespace(name="report.1", round=1, outputs=["reports/1"])
    context = SimpleNamespace(run_dir=None, progress=Progress(Console(quiet=True)))
    result = report.run_report(context, node)
    assert result.summary == "noise ratio web 0.250, synthetic -"


def test_scores_are_collected_by_task_and_by_test_source() -> None:
    def result(tr: float, cider: float, **by_source: Any) -> dict[str, Any]:
        scores = {"retrieval": {"tr@1": tr}, "caption": {"cider": cider}}
        return scores | ({"by_source": by_source} if by_source else {})

    results = {
        # A record of an earlier version has no scores by source.
        "evaluate.1": {"pretrain.0": result(1, 2), "human_only": result(3, 4, rare=result(5, 6))},
        "evaluate.2": {"pretrain.2": result(7, 8, rare=result(9, 10))},
    }
    run_dir = SimpleNamespace(
        nodes={name: SimpleNamespace(round=int(name[-1])) for name in results},
        ledger=SimpleNamespace(node=lambda name: SimpleNamespace(results=results[name])),
    )
    first, both = collect_scores(run_dir, 1), collect_scores(run_dir, 2)
    assert first["retrieval"] == {"pretrain.0": {"tr@1": 1}, "human_only": {"tr@1": 3}}
    assert both["caption"] == {
        "pretrain.0": {"cider": 2},
        "human_only": {"cider": 4},
        "pretrain.2": {"cider": 8},
    }
    assert scores_by_source(first, "retrieval") == {"rare": {"human_only": {"tr@1": 5}}}
    assert scores_by_source(both, "caption") == {
        "rare": {"human_only": {"cider": 6}, "pretrain.2": {"cider": 10}}
    }
