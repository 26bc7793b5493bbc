"""One prepared run for a machine with one GPU and no Ray: captioning, matching, training step, a profile.

    python -m benchmarks.gpu --seconds 540 --out benchmarks/results/gpu.json

Random weights and pixels, bfloat16. Each case is written as soon as it is measured, so that a run that is cut
short leaves what it has; cases that no longer fit into `--seconds` are listed as skipped. The last line is
the whole result as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.caption import NUCLEUS, Captioning
from benchmarks.match import matching
from benchmarks.parts.blip_models import ModelOptions
from benchmarks.parts.image_server import make_images
from benchmarks.parts.results import describe_machine
from benchmarks.parts.sides import Sides, measure_in_turn
from benchmarks.training import Variant, make_batch, make_med, make_tokenizer
from capfilt.models.network.med import MED
from capfilt.models.tasks.placement import (
    DECODING_THREADS,
    MOST_DECODING_THREADS,
    Images,
    decoding_threads,
    load_pixel_batches,
)
from capfilt.models.training.throughput import peak_flops

TEXTS_PER_IMAGE = 2
LARGEST_OF_TRANSFORMERS = 256
"""Images per batch; transformers repeats the image for each text, and takes long for more."""
KERNELS = 15
PHOTOS, PHOTO_SIDES = 32, (400, 800)
"""Different JPEGs, and their longer sides in pixels, for the measurement of the decoding."""
FED_BATCHES = 4
"""Batches of a call that decodes its images: the first one is decoded while the device waits."""


class Report:
    """The results so far, in a file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.deadline, self.path = time.monotonic() + options.seconds, Path(options.out)
        self.cases: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        self.facts = {"options": vars(options), "machine": describe_machine(options.device)}

    @property
    def document(self) -> dict[str, Any]:
        """What is written."""
        return self.facts | {"cases": self.cases, "skipped": self.skipped}

    def add(self, name: str, seconds: float, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure a case, unless it would take longer than what is left; `seconds` is a guess."""
        if time.monotonic() + seconds > self.deadline:
            self.skipped.append(name)
        else:
            try:
                self.cases.append({"name": name} | measure())
            except torch.OutOfMemoryError as error:
                self.cases.append({"name": name, "error": str(error).split("\n")[0]})
                torch.cuda.empty_cache()
            print(json.dumps(self.cases[-1]), flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.document, indent=2) + "\n")


def main() -> None:
    """Measure what fits into the time, most important first."""
    options = parse_options()
    torch.manual_seed(0)
    report = Report(options)
    for size in options.sizes:
        for batch_size in options.batch_sizes:
            for name, sides in tasks(options, size, batch_size):
                add_task(report, options, f"{name}, {size}, batch {batch_size}", sides)
                if batch_size == options.batch_sizes[0]:
                    report.add(f"profile: {name}, {size}, batch {batch_size}", 15, partial(kernels, sides))
        report.add(f"training step, {size}", 40, partial(training, options, size))
    for size in options.sizes:
        report.add(f"one caption from JPEGs, {size}", 30, partial(feeding, options, size))
    print(json.dumps(report.document))


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--out", default="benchmarks/results/gpu.json")
    parser.add_argument("--sizes", nargs="+", default=["base", "large"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 64, 1024])
    parser.add_argument("--image-size", type=int, default=384)
    parser.add_argument("--training-batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--price-per-gpu-hour", type=float, default=2.5, help="turns rates into costs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def tasks(options: argparse.Namespace, size: str, batch_size: int) -> Iterator[tuple[str, Sides]]:
    """Captioning and matching."""
    model = ModelOptions(
        size=size, image_size=options.image_size, device=options.device, precision="bfloat16"
    )
    with tempfile.TemporaryDirectory() as folder:
        yield "one caption", Captioning(model, batch_size, Path(folder)).sides(NUCLEUS, 1)
    with tempfile.TemporaryDirectory() as folder:
        yield f"{TEXTS_PER_IMAGE} texts", matching(model, batch_size, TEXTS_PER_IMAGE, Path(folder))


def add_task(report: Report, options: argparse.Namespace, name: str, sides: Sides) -> None:
    """Measure a task with each way to attend to images, and with a compiled image encoder."""
    batch_size = int(name.rsplit(" ", 1)[1])
    names = ["ours", "vit"] + (["transformers"] if batch_size <= LARGEST_OF_TRANSFORMERS else [])
    measure = partial(rates, sides, options, batch_size)
    with attending(sides.med, to_states=False):
        report.add(f"{name}, keys and values", 20, partial(measure, names))
    with attending(sides.med, to_states=True):
        report.add(f"{name}, states", 10, partial(measure, ["ours"]))
    with compiled_encoder(sides.med):
        report.add(f"{name}, compiled encoder", 60, partial(measure, ["ours", "vit"]))


@contextmanager
def attending(med: MED, *, to_states: bool) -> Iterator[None]:
    """Texts attend to image states, or to their keys and values, whatever the model would choose."""

    def cross_inputs(states: torch.Tensor, which: Any, tokens: float) -> Any:
        return med.cross_states(states) if to_states else med.cross_kv(states, which)

    med.cross_inputs = cross_inputs  # type: ignore[method-assign]
    try:
        yield
    finally:
        del med.cross_inputs


@contextmanager
def compiled_encoder(med: MED) -> Iterator[None]:
    """The image encoder is compiled by torch."""
    med.visual_encoder.forward_features = torch.compile(med.visual_encoder.forward_features)
    try:
        yield
    finally:
        del med.visual_encoder.forward_features


def rates(sides: Sides, options: argparse.Namespace, batch_size: int, names: list[str]) -> dict[str, Any]:
    """Images per second of each side, what a million images cost at the stated price of the device, and the
    share of its peak that our operations take."""
    seconds = sides.measure(names, options.repeats)
    with FlopCounterMode(display=False) as counter:
        sides.ours()
    per_second = {name: batch_size / statistics.median(values) for name, values in seconds.items()}
    per_million = options.price_per_gpu_hour / 3600 * 1e6
    result = {
        "images_per_second": per_second,
        "price_per_million_images": {name: per_million / rate for name, rate in per_second.items()},
        "gflop_per_image": counter.get_total_flops() / batch_size / 1e9,
        "seconds": seconds,
    }
    peak = peak_flops(torch.device(options.device), bfloat16=True)
    flops_per_second = counter.get_total_flops() / statistics.median(seconds["ours"])
    return result | ({"mfu": flops_per_second / peak} if peak else {})


def feeding(options: argparse.Namespace, size: str) -> dict[str, Any]:
    """Images per second of one caption from pixels in memory, and from JPEGs that some threads decode
    meanwhile; and of these threads alone."""
    batch_size = options.batch_sizes[0]
    model = ModelOptions(
        size=size, image_size=options.image_size, device=options.device, precision="bfloat16"
    )
    with tempfile.TemporaryDirectory() as folder:
        captioner = Captioning(model, batch_size, Path(folder)).captioner(NUCLEUS)
    photos = make_images(PHOTOS, PHOTO_SIDES)
    files = [photos[number % PHOTOS] for number in range(FED_BATCHES * batch_size)]
    keys = [str(number) for number in range(len(files))]
    pixels = torch.cat(list(load_pixel_batches(files, options.image_size, batch_size)))

    def decode(threads: int) -> None:
        deque(load_pixel_batches(files, options.image_size, batch_size, threads=threads), maxlen=0)

    def caption(images: Images, threads: int) -> None:
        captioner.pixel_batches = partial(_load_batches, captioner.image_size, threads)  # type: ignore[method-assign]
        captioner.caption(images, keys)

    cases: dict[str, Callable[[], None]] = {"pixels": partial(caption, pixels, 1)}
    for threads in sorted({DECODING_THREADS, decoding_threads(captioner.med), MOST_DECODING_THREADS}):
        cases[f"{threads} threads"] = partial(caption, files, threads)
        cases[f"{threads} threads, decoding alone"] = partial(decode, threads)
    seconds = measure_in_turn(cases, options.repeats)
    per_second = {name: len(files) / statistics.median(values) for name, values in seconds.items()}
    return {"images_per_second": per_second, "cores": len(os.sched_getaffinity(0)), "seconds": seconds}


def _load_batches(side: int, threads: int, images: Images, batch_size: int) -> Iterator[torch.Tensor]:
    """In place of `TaskModel.pixel_batches`."""
    return load_pixel_batches(images, side, batch_size, threads=threads)


def kernels(sides: Sides) -> dict[str, Any]:
    """The operations that take most of the device's time, in milliseconds of one run."""
    on_gpu = next(sides.med.parameters()).is_cuda
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as profiler:
        sides.ours()
    events = profiler.key_averages()
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    ordered = sorted(events, key=lambda event: -getattr(event, time_of))[:KERNELS]
    return {
        "milliseconds": {event.key: round(getattr(event, time_of) / 1e3, 2) for event in ordered},
        "total": round(sum(getattr(event, time_of) for event in events) / 1e3, 2),
    }


def training(options: argparse.Namespace, size: str) -> dict[str, Any]:
    """Samples per second of a pretraining step with bfloat16 autocast."""
    tokenizer = make_tokenizer()
    step_options = argparse.Namespace(
        device=options.device, precision="bfloat16", batch_size=options.training_batch_size
    )
    med, pixels = make_med(size, None, tokenizer)
    variant = Variant(med, tokenizer, step_options)
    batches = [make_batch(step_options.batch_size, pixels, seed) for seed in range(options.repeats + 1)]
    variant.step(batches[0])
    variant.seconds = [variant.step(batch) for batch in batches[1:]]
    return variant.result()


if __name__ == "__main__":
    main()
