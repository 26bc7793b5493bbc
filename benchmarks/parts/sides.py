"""Alternating runs of the sides of a comparison in one process: all suffer equally from other load."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.parts.results import describe_machine, store_report
from capfilt.models.network.med import MED


@dataclass(frozen=True, kw_only=True)
class Sides:
    """One task on all sides; each function processes all images once and waits for the results."""

    ours: Callable[[], Any]
    vit: Callable[[], Any]
    """Our image encoder alone, which is timm's."""
    transformers: Callable[[], Any]
    med: MED
    """The model of `ours` and `vit`."""

    def measure(self, names: Sequence[str], repeats: int) -> dict[str, list[float]]:
        """Seconds of each of these sides in alternating runs, after one that is not counted."""
        return measure_in_turn({name: getattr(self, name) for name in names}, repeats)


def measure_in_turn(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function in alternating runs, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            elapsed = _seconds_of(function)
            if repeat:
                seconds[name].append(elapsed)
    return seconds


def _seconds_of(function: Callable[[], Any]) -> float:
    on_gpu = torch.cuda.is_initialized()
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(sides: Sides, repeats: int) -> dict[str, Any]:
    """Median seconds of each side in alternating runs, and their ratios."""
    seconds = sides.measure(("ours", "vit", "transformers"), repeats)
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
