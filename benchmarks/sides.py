"""Alternating runs of the sides of a comparison in one process: all suffer equally from other load."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.model_results import describe_machine, store_report

Sides = Mapping[str, Callable[[], Any]]
"""Name of a side → processes all images once; `ours`, `vit` and `transformers`."""


def compare(sides: Sides, device: str, repeats: int) -> dict[str, Any]:
    """Median seconds of each side in `repeats` alternating runs after a warm-up, and their ratios."""
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            seconds[name].append(_seconds_of(run, device))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": median,
        "ours_over_vit": round(median["ours"] / median["vit"], 3),
        "transformers_over_ours": round(median["transformers"] / median["ours"], 3),
    }


def report(name: str, options: dict[str, Any], cases: dict[str, dict[str, Any]]) -> None:
    """Store options, machine and cases as benchmarks/results/<name>.json, and print them as one line."""
    document = {"options": options, "machine": describe_machine(options["device"]), "cases": cases}
    store_report(name, document)
    print(json.dumps(document))


def _seconds_of(function: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
