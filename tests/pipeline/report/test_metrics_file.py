"""metrics.json: what is written is read again; old, damaged and newer files."""

import json
from pathlib import Path

import pytest

from capfilt.pipeline.evaluation.calibration.result import Calibration, NoiseEstimate
from capfilt.pipeline.evaluation.filter_quality import FilterQuality
from capfilt.pipeline.node import ValidationResult
from capfilt.pipeline.report.metrics_file import (
    Funnel,
    MetricsError,
    RoundMetrics,
    StageTime,
    read_metrics,
    write_metrics,
)
from capfilt.stages.storage.store import Store

ESTIMATE = NoiseEstimate(pairs=100, noise=0.5, low=0.4, high=0.6)
DETAILS = NoiseEstimate(100, 0.04, 0.01, 0.07)
METRICS = RoundMetrics(
    round=2,
    counts={"success": 7, "http_404": 2},
    noise_ratio={"web": 0.5, "synthetic": None},
    noise_ratio_by_source={"a": {"web": 0.5, "synthetic": None}},
    noise_ratio_by_captioner={"a": {"recap": 0.25}},
    planted_noise=0.25,
    filter=FilterQuality(auc=0.75, precision=None, recall=0.5),
    calibration=Calibration(
        ESTIMATE, 0.12, keeps_matching=0.9, keeps_noise=0.1, by_source={"a": ESTIMATE}, details=DETAILS
    ),
    retrieval={"pretrain.0": {"tr@1": 12.5}},
    caption={"pretrain.0": {"cider": 31.0}},
    retrieval_by_source={"rare": {"pretrain.0": {"tr@1": 2.5}}},
    caption_by_source={"rare": {"pretrain.0": {"cider": 3.0}}},
    tasks={"quiz": {"vqa_score": 80.0, "chance": 10.0, "start": 5.0}},
    tasks_by_start={"quiz": {"pretrain.2": {"vqa_score": 80.0, "chance": 10.0, "start": 5.0}}},
    seconds={"fetch": 2.5},
    validation={"filter.1": ValidationResult(pairs=7, best_step=50, steps=[50, 100], losses=[1.5, 2.0])},
    funnel=Funnel(rows=9, stored=7, different=6, kept_images=4, kept_pairs=5),
    stages=[
        StageTime(
            kind="candidates",
            stage="filter",
            shards=1,
            images=7,
            seconds=2.0,
            efficiency=0.9,
            model_images_per_second=4.0,
        )
    ],
    alarms=["The filter keeps 95.0% of the captions."],
)


def test_metrics_are_read_as_they_were_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_metrics(store, METRICS)
    assert read_metrics(store, 2) == METRICS
    assert json.loads((tmp_path / "reports/2/metrics.json").read_text()) == {
        "version": 1,
        "round": 2,
        "verdicts": "default",
        "counts": {"success": 7, "http_404": 2},
        "noise_ratio": {"web": 0.5, "synthetic": None},
        "noise_ratio_by_source": {"a": {"web": 0.5, "synthetic": None}},
        "noise_ratio_by_captioner": {"a": {"recap": 0.25}},
        "planted_noise": 0.25,
        "filter": {"auc": 0.75, "precision": None, "recall": 0.5},
        "calibration": {
            "all": {"pairs": 100, "noise": 0.5, "low": 0.4, "high": 0.6},
            "threshold": 0.12,
            "keeps_matching": 0.9,
            "keeps_noise": 0.1,
            "by_source": {"a": {"pairs": 100, "noise": 0.5, "low": 0.4, "high": 0.6}},
            "details": {"pairs": 100, "noise": 0.04, "low": 0.01, "high": 0.07},
        },
        "retrieval": {"pretrain.0": {"tr@1": 12.5}},
        "caption": {"pretrain.0": {"cider": 31.0}},
        "retrieval_by_source": {"rare": {"pretrain.0": {"tr@1": 2.5}}},
        "caption_by_source": {"rare": {"pretrain.0": {"cider": 3.0}}},
        "tasks": {"quiz": {"vqa_score": 80.0, "chance": 10.0, "start": 5.0}},
        "tasks_by_start": {"quiz": {"pretrain.2": {"vqa_score": 80.0, "chance": 10.0, "start": 5.0}}},
        "seconds": {"fetch": 2.5},
        "validation": {"filter.1": {"pairs": 7, "best_step": 50, "steps": [50, 100], "losses": [1.5, 2.0]}},
        "funnel": {"rows": 9, "stored": 7, "different": 6, "kept_images": 4, "kept_pairs": 5},
        "stages": [
            {
                "kind": "candidates",
                "stage": "filter",
                "shards": 1,
                "images": 7,
                "seconds": 2.0,
                "efficiency": 0.9,
                "model_images_per_second": 4.0,
            }
        ],
        "alarms": ["The filter keeps 95.0% of the captions."],
    }


def test_round_without_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(Store(str(tmp_path)), 1) is None


def test_files_of_earlier_runs_have_no_version(tmp_path: Path) -> None:
    old = METRICS.model_dump()
    del old["version"]
    store = Store(str(tmp_path))
    store.put_json("reports/2/metrics.json", old)
    assert read_metrics(store, 2) == METRICS


def test_missing_parts_are_empty_and_unknown_keys_are_ignored(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.put_json("reports/1/metrics.json", {"round": 1, "filter": None, "energy": 3})
    assert read_metrics(store, 1) == RoundMetrics(round=1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"version": 2, "round": 1}', "version: Input should be less than or equal to 1"),
        ('{"version": 0, "round": 1}', "version: Input should be greater than or equal to 1"),
        ('{"counts": {}}', "round: Field required"),
        (
            '{"round": 1, "filter": {"auc": "high", "precision": 0.5, "recall": 1}}',
            r"filter\.auc: Input should",
        ),
        ('{"round": 1, ', "content: Invalid JSON"),
        ("", "content: Invalid JSON"),
    ],
)
def test_unreadable_file_is_an_error_of_one_line(tmp_path: Path, content: str, reason: str) -> None:
    store = Store(str(tmp_path))
    store.put("reports/1/metrics.json", content.encode())
    pattern = (
        f"^{tmp_path}/reports/1/metrics.json: not a metrics file of version 1 .*{reason}.*`capfilt report`$"
    )
    with pytest.raises(MetricsError, match=pattern):
        read_metrics(store, 1)
