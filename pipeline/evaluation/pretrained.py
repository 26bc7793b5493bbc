"""Evaluation of a run's pretrained models on its test sources: image-text retrieval and captioning."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capfilt.cluster.board import NodeStatus
from capfilt.models.caption_text import normalize_caption
from capfilt.pipeline.config.sections import EvaluateSection
from capfilt.pipeline.evaluation.caption_metrics import compute_caption_metrics
from capfilt.pipeline.evaluation.held_out import (
    HeldOutImages,
    Protocol,
    measure_retrieval,
    select_texts,
    write_captions,
)
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, ReadPairs
from capfilt.stages.storage.artifacts import ensure_local
from capfilt.stages.storage.layout import model_folder
from capfilt.stages.storage.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """Evaluation of one model; picklable, so that it can run in a worker process."""

    model: str
    """Node that trained the model, for example "pretrain.0"."""
    store: Store
    """The run directory."""
    shards: tuple[ShardRef, ...]
    """Shards of the test sources."""
    config: EvaluateSection
    seed: int
    """Seed of the run, for captions that are sampled."""
    status: NodeStatus | None = None
    """Receives notices for the user; None sends them to the log."""

    def post(self, line: str) -> None:
        """Show what the evaluation of this model is doing."""
        if self.status is not None:
            self.status.post(**{self.model: line})

    def notify(self, line: str) -> None:
        """Show a notice to the user."""
        if self.status is None:
            log.warning("%s: %s", self.model, line)
        else:
            self.status.add_notice(f"{self.model}: {line}")


def evaluate_model(task: EvaluationTask) -> dict[str, Any]:
    """Evaluate one model in this process.

    Returns:
        {"images", "texts": how many, "retrieval": {metric: percent}, "caption": {metric: percent}}, and with
        several test sources {"by_source": {source: {"images", "retrieval", "caption"}}}. There the queries
        are those of the source, and the galleries all test images and texts.

    Raises:
        OutOfMemory: a single image at a time does not fit.
    """
    return evaluate_timed(task)[0]


def evaluate_timed(task: EvaluationTask) -> tuple[dict[str, Any], float]:
    """`evaluate_model`, and the seconds that it took once the model was loaded."""
    task.post("reading model and images")
    checkpoint = ensure_local(task.store.address(model_folder(task.model)), task.model, task.store)
    held_out = _read_held_out(task)
    caption = task.config.caption
    protocol = Protocol(
        k=task.config.k, caption=caption, seed=task.seed, on_notice=task.notify, post=task.post
    )
    # Imports torch, which the driver, which lists the tasks, does not need.
    from capfilt.models.checkpoints.load import load_checkpoint
    from capfilt.models.tasks.placement import prepare_model

    med, tokenizer, _ = load_checkpoint(checkpoint, parts="pretrain")
    med = prepare_model(med, tokenizer, "auto", caption.precision)
    start = time.monotonic()
    retrieval = measure_retrieval(med, tokenizer, held_out, protocol)
    captions = write_captions(med, tokenizer, held_out, protocol)
    result = _make_result(held_out, retrieval, captions)
    return result, time.monotonic() - start


def _make_result(
    held_out: HeldOutImages, retrieval: dict[str, float], captions: dict[str, str]
) -> dict[str, Any]:
    """What `evaluate_model` returns."""
    result: dict[str, Any] = {
        "images": len(held_out.images),
        "texts": sum(map(len, held_out.texts)),
        "retrieval": {name: value for name, value in retrieval.items() if "/" not in name},
        "caption": _score_captions(captions, held_out, range(len(held_out.images))),
    }
    if held_out.by_source:
        result["by_source"] = {
            source: {
                "images": len(numbers),
                "retrieval": {
                    name.removeprefix(f"{source}/"): value
                    for name, value in retrieval.items()
                    if name.startswith(f"{source}/")
                },
                "caption": _score_captions(captions, held_out, numbers),
            }
            for source, numbers in held_out.by_source.items()
        }
    return result


def _score_captions(
    captions: dict[str, str], held_out: HeldOutImages, numbers: Sequence[int]
) -> dict[str, float]:
    """The caption metrics of these images."""
    texts = select_texts(held_out, numbers)
    return compute_caption_metrics({key: captions[key] for key in texts}, texts)


def _read_held_out(task: EvaluationTask) -> HeldOutImages:
    """The first `limit` images of the test sources."""
    reader = ReadPairs(PairsConfig(run_dir=task.store))
    held_out = HeldOutImages()
    for shard in task.shards:
        for row in reader.read(shard).to_pylist():
            if len(held_out.images) == task.config.limit:
                return held_out
            held_out.images.append(row["image"])
            held_out.texts.append([normalize_caption(text) for text in row["texts"]])
            held_out.keys.append(f"{row['source']}/{row['key']}")
            held_out.sources.append(row["source"])
    return held_out
