"""`capfilt ablate` and runs without rounds, on Ray: what is shared is not made again."""

import json
import os
import shutil

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.config.load import load_config
from capfilt.pipeline.execute import execute
from capfilt.pipeline.prepare import hold_run, prepare
from capfilt.pipeline.rundir.takeover import take_over
from capfilt.stages.storage.run_store import RunStore
from tests.runs import walk
from tests.tiny import write_config


def records(run):
    return {path.stem: json.loads(path.read_text()) for path in (run / "nodes").glob("*.json")}


def metrics(run, round=1):
    return json.loads((run / f"reports/{round}/metrics.json").read_text())


@pytest.fixture(scope="module")
def decoupling(finished, tiny, tmp_path_factory):
    """(folder, config file, output) of the table `decoupling`, whose base is the finished tiny run."""
    folder = tmp_path_factory.mktemp("tables")
    path = write_config(folder / "tiny.yaml", tiny[1])
    shutil.copytree(finished[0], folder / "run/seed-0-decoupled")
    command = ["ablate", str(path), "--table", "decoupling", "--seeds", "0", "--set", f"run.dir={folder}/run"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return folder / "run", command, result.output


def test_only_what_differs_is_made(decoupling, finished):
    shared, base = decoupling[0] / "seed-0-shared", decoupling[0] / "seed-0-decoupled"
    taken = {name: "taken_from" in record for name, record in records(shared).items()}
    assert taken == {
        "fetch": True, "pretrain.0": True, "shared.1": False, "calibrate.1": False, "bootstrap.1": False,
        "pretrain.1": False, "evaluate.1": False, "report.1": False,
    }  # fmt: skip
    for folder in ("corpus", "images", "models/pretrain.0", "models/tokenizer", "logs/pretrain.0"):
        names = walk(RunStore(str(base)), folder)
        assert names and names == walk(RunStore(str(shared)), folder)
        assert all(os.path.samefile(base / name, shared / name) for name in names)
    assert records(base)["pretrain.1"] == records(finished[0])["pretrain.1"], "not made again"
    assert records(base)["pretrain.0"]["seconds"] == records(shared)["pretrain.0"]["seconds"]


def test_captioner_and_filter_are_one_model(decoupling):
    shared = decoupling[0] / "seed-0-shared"
    candidates = pd.read_parquet(shared / "rounds/1/web")
    fingerprint = records(shared)["shared.1"]["fingerprint"]
    assert set(candidates["filter"]) == {fingerprint} == set(candidates["captioner"].dropna())
    assert json.loads((shared / "models/shared.1/config.json").read_text())["model"]["parts"] == "pretrain"
    steps = [json.loads(line) for line in (shared / "logs/shared.1/000000001.jsonl").open()]
    assert {"itc", "itm", "lm"} <= set(steps[0])


def test_the_table_has_the_figures_of_the_runs(decoupling):
    scores = pd.read_parquet(decoupling[0] / "tables/decoupling.parquet").set_index(["row", "metric"]).value
    for row, run, model in (
        ("none", "seed-0-decoupled", "pretrain.0"),
        ("shared", "seed-0-shared", "pretrain.1"),
        ("decoupled", "seed-0-decoupled", "pretrain.1"),
    ):
        found = metrics(decoupling[0] / run)
        expected = found["retrieval"][model] | found["caption"][model]
        assert {name: scores[row, name] for name in expected} == expected
    noise = metrics(decoupling[0] / "seed-0-shared")["noise_ratio"]["synthetic"]
    assert scores["shared", "noise_synthetic"] == pytest.approx(100 * noise)
    assert "decoupled - shared" in decoupling[2]
    assert "<svg" in (decoupling[0] / "tables.html").read_text()


def test_the_same_command_does_nothing_more(decoupling):
    def times():
        files = [p for p in decoupling[0].rglob("*") if p.is_file() and p.name != "config.yaml"]
        return {
            p: p.stat().st_mtime_ns for p in files if p.parent != decoupling[0] and p.parent.name != "tables"
        }

    before = times()
    result = CliRunner().invoke(app, decoupling[1])
    assert result.exit_code == 0, result.output
    assert times() == before


def test_a_run_without_rounds_pretrains_evaluates_and_reports(finished, tiny, tmp_path):
    """Its model is that of round 0 of the finished run, from which it is taken over."""
    path = write_config(tmp_path / "tiny.yaml", tiny[1])
    config = load_config(path, ["run.rounds=0", f"run.dir={tmp_path}/run"])
    console = Console(quiet=True)
    with hold_run(config, print) as run_dir:
        assert list(take_over(run_dir, [RunStore(str(finished[0]))])) == ["fetch", "pretrain.0"]
        outcome = execute(prepare(run_dir), console)
    assert (outcome.done, outcome.failed) == (["evaluate.0", "report.0"], {})
    found, expected = metrics(tmp_path / "run", 0), metrics(finished[0])
    assert found["retrieval"] == {"pretrain.0": expected["retrieval"]["pretrain.0"]}
    assert found["noise_ratio"] == {} and found["funnel"] is None
    page = (tmp_path / "run/reports/0/report.html").read_text()
    assert 'id="models"' in page and 'id="noise"' not in page
    result = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "candidates" not in result.output and "reports/0/report.html" in result.output
