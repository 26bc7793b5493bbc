"""The files of a report; every expected number is counted by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.report import build
from capfilt.pipeline.report.build import build_report
from capfilt.pipeline.report.inputs import ReportInputs
from capfilt.pipeline.report.metrics_file import read_metrics
from capfilt.stages.storage.store import Store
from tests.pipeline.report.report_cases import page_of


@pytest.fixture
def out(tmp_path: Path) -> Store:
    """The folder in which the report is expected."""
    return Store(str(tmp_path / "reports/1"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The run directory."""
    return Store(str(tmp_path))


def test_metrics_json_has_the_documented_keys_and_the_counted_values(
    inputs: ReportInputs, store: Store, out: Store
) -> None:
    metrics = build_report(inputs, store)
    assert read_metrics(store, 1) == metrics
    content = json.loads(out.read("metrics.json"))
    assert set(content) == {
        "version", "round", "verdicts", "counts", "noise_ratio", "noise_ratio_by_source",
        "noise_ratio_by_captioner", "planted_noise", "filter", "calibration", "retrieval", "caption",
        "retrieval_by_source", "caption_by_source", "tasks", "tasks_by_start", "seconds", "validation",
        "funnel", "stages", "alarms",
    }  # fmt: skip
    assert content["round"] == 1
    assert content["counts"] == {"success": 7, "http_404": 2, "timeout": 1}
    assert content["noise_ratio"] == pytest.approx({"web": 1 / 2, "synthetic": 2 / 7})
    assert content["noise_ratio_by_source"]["b"] == pytest.approx({"web": 1 / 2, "synthetic": 0})
    assert content["planted_noise"] == pytest.approx(1 / 2)
    # Noise scores .9 and .4, clean scores .1 and .7 (see tests/pipeline/evaluation/test_filter_quality.py)
    assert content["filter"] == pytest.approx({"auc": 0.75, "precision": 0.5, "recall": 0.5})
    assert content["retrieval"] == inputs.retrieval and content["caption"] == inputs.caption
    assert content["seconds"] == {"fetch": 2.5, "pretrain.0": 61.0}
    # Kept: a1 both texts, a2 caption, a3 the first caption, a4 web, a5 caption, b1 web, b2 caption.
    assert content["funnel"] == {
        "rows": 10, "stored": 7, "different": 7, "kept_images": 7, "kept_pairs": 8,
    }  # fmt: skip
    assert content["stages"] == [each.model_dump() for each in inputs.stages]


def test_drift_json_has_the_diversity_and_the_acceptance_of_each_origin(
    inputs: ReportInputs, store: Store, out: Store
) -> None:
    build_report(inputs, store)
    drift = out.read_json("drift.json")
    assert drift["round"] == 1 and drift["acceptance"] == pytest.approx({"web": 1 / 2, "synthetic": 5 / 7})
    assert {origin: texts["texts"] for origin, texts in drift["texts"].items()} == {"web": 7, "synthetic": 6}


def test_noise_parquet_has_a_row_per_source_and_origin(
    inputs: ReportInputs, store: Store, out: Store
) -> None:
    build_report(inputs, store)
    table = pq.read_table(out.path("noise.parquet"))
    assert table.column_names == [
        "round", "source", "origin", "judged", "kept", "dropped", "noise_ratio", "noise_low", "noise_high",
    ]  # fmt: skip
    (row,) = [each for each in table.to_pylist() if (each["source"], each["origin"]) == ("a", "web")]
    assert (row["round"], row["judged"], row["kept"], row["dropped"], row["noise_ratio"]) == (1, 4, 2, 2, 0.5)
    assert (row["noise_low"], row["noise_high"]) == pytest.approx((0.15004, 0.84996), abs=1e-5)
    assert table.num_rows == 4


def test_statuses_and_hosts_are_tables_beside_the_page(
    inputs: ReportInputs, store: Store, out: Store
) -> None:
    build_report(inputs, store)
    statuses = pq.read_table(out.path("statuses.parquet")).to_pylist()
    assert [(r["source"], r["shard"], r["status"], r["retryable"], r["rows"]) for r in statuses] == [
        ("a", 0, "http_404", False, 2), ("a", 0, "success", False, 5), ("a", 0, "timeout", True, 1),
        ("b", 0, "success", False, 2),
    ]  # fmt: skip
    hosts = pq.read_table(out.path("hosts.parquet"))
    assert hosts.column_names[5:] == [
        "commonest", "commonest_rows", "judged", "kept", "dropped", "noise_ratio", "noise_low", "noise_high",
    ]  # fmt: skip
    assert [tuple(r.values())[:7] for r in hosts.to_pylist()] == [
        (1, "two.example", 3, 1, 2, "http_404", 1), (1, "one.example", 4, 3, 1, "http_404", 1),
        (1, "[::1]", 1, 1, 0, None, None),
    ]  # fmt: skip
    # Judged web texts: two.example a4 (kept); one.example a1 (kept), a2, a3; the text of a5 has no verdict.
    assert [(r["judged"], r["kept"], r["dropped"], r["noise_ratio"]) for r in hosts.to_pylist()] == [
        (1, 1, 0, 0.0), (3, 1, 2, pytest.approx(2 / 3)), (0, 0, 0, None),
    ]  # fmt: skip
    assert hosts["noise_low"].to_pylist()[2] is None and hosts["noise_low"].to_pylist()[0] == 0
    page = out.read("report.html").decode()
    assert "capfilt retry RUN --class timeout" in page and 'id="copies"' not in page


def test_number_of_listed_hosts_is_bounded(
    inputs: ReportInputs, store: Store, out: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MAX_LISTED_HOSTS", 2)
    build_report(inputs, store)
    assert pq.read_table(out.path("hosts.parquet"))["host"].to_pylist() == ["two.example", "one.example"]


def test_most_copied_images_are_shown_with_their_counts(
    inputs: ReportInputs, store: Store, tmp_path: Path
) -> None:
    copies = [
        {"kind": "exact", "copies": 12345, "source": "a", "key": "1", "surplus": 12245},
        {"kind": "perceptual", "copies": 7, "source": "b", "key": "1", "surplus": 0},
    ]
    build_report(replace(inputs, duplicates=copies), store)
    cards = page_of(tmp_path).section("copies").all("article")
    assert [len(card.all("img")) for card in cards] == [1, 0], "b/1 has no image"
    first, second = (card.text for card in cards)
    assert "12\u202f345 copies, 12\u202f245 over the limit" in first and "same bytes" in first
    assert "7 copies same perceptual hash, which ignores color" in second and "over the limit" not in second
    assert "http://one.example/1" in first and "images/1.png" in second
    colors = [card.all("li")[0].attributes.get("class") for card in cards]
    assert colors == ["dropped", None], "green is the color of kept texts"
