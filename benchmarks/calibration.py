"""How close the calibration of a filter comes to planted noise, at several rates, on common and rare words.

    python -m benchmarks.calibration                     # noise 0.2, 0.4, 0.55 and 0.7; about 5 minutes each

Each rate is a run of the quickstart's config up to the judged candidates, with 7,000 web images, three
tenths of them held out, and complete true texts. The figures of the product (estimate, interval, suggested
threshold) stand beside the planted truth, which only this comparison reads.

Two shares are planted: unrelated texts, of another image or of none ("mismatched", "boilerplate"), and texts
that are wrong in one detail ("partial"). The calibration estimates each of them, and their sum, all noise, by
that. Prints a line per rate and writes benchmarks/results/calibration.json.
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
from capfilt.pipeline.evaluation.calibration.details import estimate_details
from capfilt.pipeline.evaluation.calibration.ranks import estimate_noise
from capfilt.pipeline.evaluation.calibration.swapped import (
    OTHERS,
    CalibrationTask,
    load_filter,
    sample_pairs,
    score_sample,
)
from capfilt.pipeline.evaluation.filter_quality import MATCHING, compute_roc_auc
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
    """The largest errors of the estimates, of all texts and of common and rare ones apart, against the
    planted shares; the share of intervals that contain these; the lowest AUC."""
    parts = [row[name] for row in rows for name in PARTS]
    pairs = {"unrelated": "unrelated", "details": "wrong_in_a_detail", "all_noise": "planted"}
    found: dict[str, float] = {}
    for estimate, planted in pairs.items():
        errors = [abs(part[f"estimate_{estimate}"] - part[planted]) for part in parts]
        found[f"largest_error_{estimate}"] = round(max(errors), 4)
    for estimate, planted in list(pairs.items())[:2]:
        held = [part[f"low_{estimate}"] <= part[planted] <= part[f"high_{estimate}"] for part in parts]
        found[f"intervals_that_hold_{estimate}"] = round(sum(held) / len(held), 4)
    return found | {"lowest_auc": min(row["auc"] for row in rows)}


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
    assert found.details is not None, "the filter finds most of the wrong words"
    for name, estimate in (("unrelated", found.all), ("details", found.details)):
        assert abs(row["all"][f"estimate_{name}"] - estimate.noise) < 1e-4, "as in the product"
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
    sample, matcher = sample_pairs(task), load_filter(task)
    scores = score_sample(task, matcher, sample)
    hits, ranks = scores.hits, scores.ranks
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
        unrelated = estimate_noise(ranks[chosen], OTHERS)
        details = estimate_details(hits.take(chosen), ranks[chosen], OTHERS)
        assert details is not None, "the filter finds most of the wrong words"
        found[name] = {
            "texts": int(chosen.sum()),
            "planted": round(float(1 - matching[chosen].mean()), 4),
            "wrong_in_a_detail": round(float(detail[chosen].mean()), 4),
            "unrelated": round(float(1 - matching[chosen].mean() - detail[chosen].mean()), 4),
            "estimate_all_noise": round(unrelated.noise + details.noise, 4),
        }
        for kind, estimate in (("unrelated", unrelated), ("details", details)):
            figures = {"estimate": estimate.noise, "low": estimate.low, "high": estimate.high}
            found[name] |= {f"{key}_{kind}": round(value, 4) for key, value in figures.items()}
    return found


if __name__ == "__main__":
    main()
