"""The whole loop on a tiny corpus: its files, its figures, and that finished nodes are skipped."""

import json
import shutil

import duckdb
import pytest
from rich.console import Console

from capfilt.pipeline.plan import plan
from capfilt.stages.pairs.hold_out import is_held_out
from tests.runs import run_dag


def read_records(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("??????.json"))]


def test_every_node_is_recorded_as_done(finished):
    run, config, outcome = finished
    assert set(outcome.done) == set(plan(config))
    assert {path.stem for path in (run / "nodes").glob("*.json")} == set(plan(config))


def test_no_row_is_lost_or_duplicated(finished):
    run, _, _ = finished
    keys = duckdb.sql(f"SELECT key, status FROM '{run}/corpus/web/*.parquet'").fetchall()
    assert len(keys) == len({key for key, _ in keys}) == 90
    for record in read_records(run / "records/corpus/web"):
        assert record["rows"]["read"] == sum(record["rows"]["status"].values())
    judged = duckdb.sql(f"SELECT key, origin, caption_index FROM '{run}/rounds/1/web/*.parquet'").fetchall()
    images = {key for key, status in keys if status == "success"}
    expected = {(key, "web", 0) for key in images} | {(key, "synthetic", i) for key in images for i in (0, 1)}
    assert sorted(judged) == sorted(expected)


def test_the_query_of_the_readme_gives_the_reported_noise_ratio(finished):
    run, _, _ = finished
    metrics = json.loads((run / "reports/1/metrics.json").read_text())
    query = f"SELECT origin, 1 - avg(kept::int) FROM '{run}/rounds/1/**/*.parquet' GROUP BY 1"
    assert dict(duckdb.sql(query).fetchall()) == pytest.approx(metrics["noise_ratio"])
    truth = duckdb.sql(f"SELECT avg((truth <> 'clean')::int) FROM '{run}/corpus/web/*.parquet'").fetchone()[0]
    assert metrics["planted_noise"] == pytest.approx(truth)


def test_models_are_evaluated_and_reported(finished):
    run, _, _ = finished
    metrics = json.loads((run / "reports/1/metrics.json").read_text())
    assert set(metrics["retrieval"]) == set(metrics["caption"]) == {"pretrain.0", "pretrain.1"}
    assert {"tr@1", "ir@10", "itc_tr@1", "itc_ir@1"} <= set(metrics["retrieval"]["pretrain.1"])
    assert {"cider", "bleu@4", "rouge_l"} <= set(metrics["caption"]["pretrain.0"])
    assert 0 <= metrics["filter"]["auc"] <= 1
    page = (run / "reports/1/report.html").read_text()
    assert "<script src" not in page and "data:image" in page


def test_filter_is_calibrated_on_held_out_images_and_web_texts_are_judged_by_what_it_suggests(finished):
    run, _, _ = finished
    found = json.loads((run / "reports/1/metrics.json").read_text())["calibration"]
    stored = duckdb.sql(f"SELECT key FROM '{run}/corpus/web/*.parquet' WHERE status = 'success'").fetchall()
    assert found["all"]["pairs"] == sum(is_held_out("web", key, 0.8) for (key,) in stored)
    assert found["all"]["low"] <= found["all"]["noise"] <= found["all"]["high"]
    used = duckdb.sql(
        "SELECT DISTINCT origin, threshold::DOUBLE, kept = (itm_prob >= threshold) "
        f"FROM '{run}/rounds/1/web/*.parquet' WHERE kept IS NOT NULL"
    ).fetchall()
    assert sorted(used) == [("synthetic", 0.5, True), ("web", pytest.approx(found["threshold"]), True)]


def test_the_bootstrap_measures_how_close_it_comes_to_its_models_alone(finished):
    run, _, _ = finished
    measured = json.loads((run / "nodes/bootstrap.1.json").read_text())["counts"]["efficiency"]
    assert set(measured) == {"caption", "filter"}
    assert measured["caption"]["efficiency"] == measured["filter"]["efficiency"] > 0, "they share processes"
    stages = json.loads((run / "reports/1/metrics.json").read_text())["stages"]
    shown = {each["stage"]: each["efficiency"] for each in stages if each["efficiency"] is not None}
    assert shown == {stage: each["efficiency"] for stage, each in measured.items()}
    rates = {each["stage"]: each["model_images_per_second"] for each in stages}
    assert rates["caption"] == measured["caption"]["images_per_second"] > 1


def test_captioner_and_filter_start_from_the_last_med(finished):
    run, _, _ = finished
    for name in ("captioner.1", "filter.1"):
        provenance = json.loads((run / f"models/{name}/provenance.json").read_text())
        assert provenance["start"] == "models/pretrain.0"
    assert json.loads((run / "models/pretrain.1/provenance.json").read_text())["start"] is None


def test_a_second_run_does_nothing(finished):
    run, config, _ = finished
    before = {
        path: path.stat().st_mtime_ns
        for path in run.rglob("*")
        if path.is_file() and path.name != "config.yaml"
    }
    outcome = run_dag(config, Console(quiet=True))
    assert outcome.done == [] and set(outcome.skipped) == set(plan(config))
    assert before == {
        p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name != "config.yaml"
    }


def test_fresh_repeats_a_node_and_its_dependents_with_the_same_result(finished, tmp_path):
    original, config, _ = finished
    run = tmp_path / "run"
    shutil.copytree(original, run)
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(run)})})
    query = f"SELECT key, origin, caption_index, text, kept FROM '{run}/rounds/1/web/*.parquet' ORDER BY ALL"
    before = duckdb.sql(query).fetchall()
    outcome = run_dag(config, Console(quiet=True), until="bootstrap.1", fresh=["bootstrap.1"])
    assert outcome.done == ["bootstrap.1"]
    assert duckdb.sql(query).fetchall() == before
    assert not (run / "reports/1").exists()
