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
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, ReadPairs
from capfilt.stages.storage.artifacts import ensure_local
from capfilt.stages.storage.layout import model_folder
from capfilt.stages.storage.store import Store

log = logging.getLogger(__name__)

POST_EVERY_SECONDS = 1.0
CAPTIONED_BATCHES = 8
"""Batches that are captioned in one call; progress is shown after each."""


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


@dataclass(frozen=True)
class HeldOutImages:
    """Images with their texts, in manifest order."""

    images: list[bytes]
    """Encoded."""
    texts: list[list[str]]
    """Normalized captions of each image."""
    keys: list[str]
    """"<source>/<key>" of each image."""
    sources: list[str]
    """The source of each image."""

    @property
    def by_source(self) -> dict[str, list[int]]:
        """{source: numbers of its images}; empty for a single source, which has the figures of all images."""
        numbers: dict[str, list[int]] = {}
        for number, source in enumerate(self.sources):
            numbers.setdefault(source, []).append(number)
        return numbers if len(numbers) > 1 else {}


class _Progress:
    """Posts how many images a step has done: after every second, and at its end."""

    def __init__(self, task: EvaluationTask, images: int) -> None:
        self.task, self.images, self.posted = task, images, float("-inf")

    def __call__(self, step: str, done: int) -> None:
        now = time.monotonic()
        if now - self.posted >= POST_EVERY_SECONDS or done == self.images:
            self.posted = now
            self.task.post(f"{step} {done:,} of {self.images:,} images")


def evaluate_model(task: EvaluationTask) -> dict[str, Any]:
    """Evaluate one model in this process.

    Returns:
        {"images", "texts": how many, "retrieval": {metric: percent}, "caption": {metric: percent}}, and with
        several test sources {"by_source": {source: {"images", "retrieval", "caption"}}}. There the queries
        are those of the source, and the galleries all test images and texts.

    Raises:
        OutOfMemory: a single image at a time does not fit.
    """
    task.post("reading model and images")
    checkpoint = ensure_local(task.store.address(model_folder(task.model)), task.model, task.store)
    held_out = _read_held_out(task)
    retrieval = _evaluate_retrieval(task, checkpoint, held_out)
    captions = _generate_captions(task, checkpoint, held_out)
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
    keys = [held_out.keys[number] for number in numbers]
    texts = {held_out.keys[number]: held_out.texts[number] for number in numbers}
    return compute_caption_metrics({key: captions[key] for key in keys}, texts)


def _read_held_out(task: EvaluationTask) -> HeldOutImages:
    """The first `limit` images of the test sources."""
    reader = ReadPairs(PairsConfig(run_dir=task.store))
    held_out = HeldOutImages([], [], [], [])
    for shard in task.shards:
        for row in reader.read(shard).to_pylist():
            if len(held_out.images) == task.config.limit:
                return held_out
            held_out.images.append(row["image"])
            held_out.texts.append([normalize_caption(text) for text in row["texts"]])
            held_out.keys.append(f"{row['source']}/{row['key']}")
            held_out.sources.append(row["source"])
    return held_out


# The driver imports this module to list the tasks and needs no torch, so the functions below import it.


def _evaluate_retrieval(task: EvaluationTask, checkpoint: str, held_out: HeldOutImages) -> dict[str, float]:
    """Recalls of the model. The model leaves the device at the end, before the captioner is loaded."""
    from capfilt.models.checkpoints.load import load_checkpoint
    from capfilt.models.tasks.placement import load_pixel_batches, prepare_model
    from capfilt.models.tasks.retrieval import RetrievalOptions, RetrievalSet, evaluate_retrieval

    caption = task.config.caption
    med, tokenizer, _ = load_checkpoint(checkpoint, parts="pretrain")
    med = prepare_model(med, tokenizer, "auto", caption.precision)
    data = RetrievalSet(
        pixel_batches=load_pixel_batches(held_out.images, med.config.vision.image_size, caption.batch_size),
        texts=[text for of_image in held_out.texts for text in of_image],
        image_of_text=[i for i, of_image in enumerate(held_out.texts) for _ in of_image],
        groups=held_out.by_source,
    )
    options = RetrievalOptions(
        k=task.config.k,
        batch_size=caption.batch_size,
        on_notice=task.notify,
        on_progress=_Progress(task, len(held_out.images)),
    )
    return evaluate_retrieval(med, tokenizer, data, options)


def _generate_captions(task: EvaluationTask, checkpoint: str, held_out: HeldOutImages) -> dict[str, str]:
    """One caption of each image, by its key."""
    from capfilt.models.tasks.captioner import Captioner

    captioner = Captioner.from_checkpoint(checkpoint, task.config.caption)
    captioner.batches.on_notice = task.notify
    images, keys, captions = held_out.images, held_out.keys, dict[str, str]()
    progress, size = _Progress(task, len(images)), CAPTIONED_BATCHES * task.config.caption.batch_size
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        found = captioner.caption(images[part], keys[part], n=1, run_seed=task.seed, round=0)
        captions |= {key: of_image[0].text for key, of_image in zip(keys[part], found, strict=True)}
        progress("captioning", len(captions))
    return captions
