"""How close the calibration of a filter comes to planted noise, at several rates, on common and rare words.

    python -m benchmarks.calibration                     # noise 0.2, 0.4, 0.55 and 0.7; about 5 minutes each

Each rate is a run of the quickstart's config up to the judged candidates, with 7,000 web images, three
tenths of them held out, and complete true texts. The figures of the product (estimate, interval, suggested
threshold) stand beside the planted truth, which only this comparison reads.

Two shares are planted. Unrelated texts, of another image or of none ("mismatched", "boilerplate"), are what
the calibration estimates. Texts that are wrong in one detail ("partial") are noise too, but they still
describe their image better than any other, so they count as matching in the estimate. Prints a line per rate
and writes benchmarks/results/calibration.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.parts.results import store_report
from capfilt.pipeline.config.load import load_config
from capfilt.pipeline.corpora.shapes import make_scene
from capfilt.pipeline.evaluation.filter_quality import MATCHING, compute_roc_auc
from capfilt.pipeline.evaluation.ranks import estimate_noise, rank_own_image
from capfilt.pipeline.evaluation.swapped import (
    OTHERS,
    CalibrationTask,
    load_filter,
    sample_pairs,
    score_sample,
)
from capfilt.pipeline.prepare import open_run
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig
from capfilt.stages.storage.layout import model_folder

CONFIG = "configs/quickstart.yaml"
NODE = "bootstrap.1"
PARTS = ("all", "common", "rare")
"""All texts, and those of images that show only what the human images show apart from the others."""


def main() -> None:
    """Measures, and stores the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--noise", default="0.2,0.4,0.55,0.7", help="shares, separated by commas")
    parser.add_argument("--folder", type=Path, default=Path("runs/calibration"))
    options = parser.parse_args()
    rows = [measure(float(noise), options.folder) for noise in options.noise.split(",")]
    store_report("calibration", rows)
    print(json.dumps(summarize(rows)))


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The largest errors of the estimates, of all texts and of common and rare ones apart, against both
    planted shares; the share of intervals that contain the one of unrelated texts; the lowest AUC."""
    parts = [row[name] for row in rows for name in PARTS]
    covered = sum(part["low"] <= part["unrelated"] <= part["high"] for part in parts)
    errors = {
        f"largest_error_{share}": round(max(abs(part["estimate"] - part[share]) for part in parts), 4)
        for share in ("unrelated", "planted")
    }
    lowest = min(row["auc"] for row in rows)
    return errors | {"intervals_that_hold": round(covered / len(parts), 4), "lowest_auc": lowest}


def overrides(noise: float, folder: Path) -> list[str]:
    """Settings of the run with this share of noise."""
    place = folder / f"noise-{noise:g}"
    data = f"{place}/corpus"
    values = {
        "run.dir": f"{place}/run",
        "shapes": f"{{human: 1000, web: 7000, test: 500, human_words: 0.65, noise: {noise}}}",
        "shapes_dir": data,
        "sources.human.rows.manifest": f"{data}/human/annotations.json",
        "sources.human.images": f"{data}/human",
        "sources.web.rows.manifest": f"{data}/web/manifest.parquet",
        "sources.web.serve": f"{data}/web",
        "sources.common.rows.manifest": f"{data}/test/common.json",
        "sources.common.images": f"{data}/test",
        "sources.rare.rows.manifest": f"{data}/test/rare.json",
        "sources.rare.images": f"{data}/test",
        "controls": "[]",
        "pretrain.steps": "700",
        "pretrain.hold_out": "0.3",
        "captioner.finetune.steps": "1",
        "captioner.generate.sampling.max_new_tokens": "1",
        "filter.judge.threshold": "auto",
    }
    return [f"{key}={value}" for key, value in values.items()]


def measure(noise: float, folder: Path) -> dict[str, Any]:
    """Run one rate, or resume it, and compare its figures with the truth."""
    settings = overrides(noise, folder)
    command = [sys.executable, "-m", "pipeline", "run", CONFIG, "--until", NODE]
    start = time.monotonic()
    subprocess.run([*command, *(word for each in settings for word in ("--set", each))], check=True)
    run_dir = open_run(load_config(CONFIG, settings))
    found = run_dir.calibration(1)
    assert found is not None, "there are enough held-out images"
    texts = read_texts(run_dir.store.path(""))
    row = {
        "noise": noise,
        "auc": round(compute_roc_auc(~texts["matching"], 1 - texts["itm_prob"]), 4),
        "threshold": found.threshold,
        "kept_matching": round(float(texts["kept"][texts["matching"]].mean()), 4),
        "kept_noise": round(float(texts["kept"][~texts["matching"]].mean()), 4),
        "seconds": round(time.monotonic() - start),
        **compare_parts(run_dir, texts),
    }
    estimate = row["all"]["estimate"]
    assert abs(estimate - found.all.noise) < 1e-4, "the figures are those of the product"
    print(json.dumps(row), flush=True)
    return row


def read_texts(run: str) -> dict[str, Any]:
    """Of every judged web text: key, text, score, verdict, and whether it matches its image."""
    corpus = pq.read_table(f"{run}/corpus/web", columns=["key", "truth"]).to_pydict()
    truth = dict(zip(corpus["key"], corpus["truth"], strict=True))
    judged = pq.read_table(f"{run}/rounds/1/web", filters=[("origin", "=", "web")])
    return {
        "key": judged["key"].to_pylist(),
        "itm_prob": judged["itm_prob"].to_numpy(),
        "kept": np.array(judged["kept"].to_pylist(), dtype=bool),
        "matching": np.array([truth[key] in MATCHING for key in judged["key"].to_pylist()]),
        "truth": truth,
    }


def compare_parts(run_dir: Any, texts: dict[str, Any]) -> dict[str, Any]:
    """Planted and estimated noise of the sample: all texts, and those of images with common objects only
    apart from the others."""
    config, store = run_dir.config, run_dir.store
    assert config.shapes is not None, "the quickstart makes shapes"
    task = CalibrationTask(
        model=ModelSource(checkpoint=store.address(model_folder("filter.1")), run_dir=store),
        judge=config.filter.judge,
        pairs=PairsConfig(run_dir=store, without_surplus=config.duplicates.policy == "drop"),
        hold_out=config.held_out_for(1),
        shards=tuple(ShardRef("web", n, "web") for n in run_dir.ledger.committed_shards("corpus/web")),
        size=config.filter.calibrate.pairs,
    )
    sample = sample_pairs(task)
    scores = score_sample(task, load_filter(task), sample)
    ranks = rank_own_image(scores.itc_own, scores.itc_others)
    matching = np.array([texts["truth"][row["key"]] in MATCHING for row in sample])
    detail = np.array([texts["truth"][row["key"]] == "partial" for row in sample])
    rows = [
        int(row["key"][:6]) * config.sources["web"].rows.shard_size + int(row["key"][6:]) for row in sample
    ]
    scenes = [make_scene(config.shapes, "web", row) for row in rows]
    grammar = config.shapes.grammar
    rare = np.array([not grammar.is_common(grammar.facts(scene)) for scene in scenes])
    parts = dict(zip(PARTS, (np.ones(len(sample), dtype=bool), ~rare, rare), strict=True))
    found = {}
    for name, chosen in parts.items():
        estimate = estimate_noise(ranks[chosen], OTHERS)
        found[name] = {
            "texts": int(chosen.sum()),
            "planted": round(float(1 - matching[chosen].mean()), 4),
            "wrong_in_a_detail": round(float(detail[chosen].mean()), 4),
            "unrelated": round(float(1 - matching[chosen].mean() - detail[chosen].mean()), 4),
            "estimate": round(estimate.noise, 4),
            "low": round(estimate.low, 4),
            "high": round(estimate.high, 4),
        }
    return found


if __name__ == "__main__":
    main()
