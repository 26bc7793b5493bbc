"""Evaluation of a run's pretrained models on its test sources: image-text retrieval and captioning."""

from __future__ import annotations

import logging
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


def evaluate_model(task: EvaluationTask) -> dict[str, Any]:
    """Evaluate one model in this process.

    Returns:
        {"images", "texts": how many, "retrieval": {metric: percent}, "caption": {metric: percent}}.

    Raises:
        OutOfMemory: a single image at a time does not fit.
    """
    checkpoint = ensure_local(task.store.address(model_folder(task.model)), task.model, task.store)
    held_out = _read_held_out(task)
    return {
        "images": len(held_out.images),
        "texts": sum(map(len, held_out.texts)),
        "retrieval": _evaluate_retrieval(task, checkpoint, held_out),
        "caption": compute_caption_metrics(
            _generate_captions(task, checkpoint, held_out),
            dict(zip(held_out.keys, held_out.texts, strict=True)),
        ),
    }


def _read_held_out(task: EvaluationTask) -> HeldOutImages:
    """The first `limit` images of the test sources."""
    reader = ReadPairs(PairsConfig(run_dir=task.store))
    held_out = HeldOutImages([], [], [])
    for shard in task.shards:
        for row in reader.read(shard).to_pylist():
            if len(held_out.images) == task.config.limit:
                return held_out
            held_out.images.append(row["image"])
            held_out.texts.append([normalize_caption(text) for text in row["texts"]])
            held_out.keys.append(f"{row['source']}/{row['key']}")
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
    )
    options = RetrievalOptions(k=task.config.k, batch_size=caption.batch_size, on_notice=task.notify)
    return evaluate_retrieval(med, tokenizer, data, options)


def _generate_captions(task: EvaluationTask, checkpoint: str, held_out: HeldOutImages) -> dict[str, str]:
    """One caption of each image, by its key."""
    from capfilt.models.tasks.captioner import Captioner

    captioner = Captioner.from_checkpoint(checkpoint, task.config.caption)
    captioner.batches.on_notice = task.notify
    captions = captioner.caption(held_out.images, held_out.keys, n=1, run_seed=task.seed, round=0)
    return {key: of_image[0].text for key, of_image in zip(held_out.keys, captions, strict=True)}
