"""How good the pretrained MEDs of a run are, on its test sources: retrieval and captions."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from capfilt.cluster.board import NodeStatus
from capfilt.models.caption_text import normalize_caption
from capfilt.pipeline.config.sections import EvaluateSection
from capfilt.pipeline.evaluation.caption_metrics import caption_metrics
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, ReadPairs
from capfilt.stages.storage.artifacts import local_artifact
from capfilt.stages.storage.layout import model_folder
from capfilt.stages.storage.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationTask:
    """One model's evaluation; picklable."""

    model: str
    run: Store
    shards: tuple[ShardRef, ...]
    config: EvaluateSection
    seed: int
    reports: NodeStatus | None = None
    """Receives what the user should know."""

    def notice(self, line: str) -> None:
        """Tell the user; without a board, the log."""
        if self.reports is None:
            log.warning("%s: %s", self.model, line)
        else:
            self.reports.note(f"{self.model}: {line}")


def evaluate(test: EvaluationTask) -> dict[str, Any]:
    """Evaluate one model in this process; the driver, which only lists the tests, needs no torch.

    Raises:
        OutOfMemory: not even one image at a time fits.
    """
    checkpoint = local_artifact(test.run.address(model_folder(test.model)), test.model, test.run)
    images, texts, keys = _read(test)
    normal = [[normalize_caption(text) for text in of_image] for of_image in texts]
    return {
        "images": len(images),
        "texts": sum(map(len, texts)),
        "retrieval": _retrieval(test, checkpoint, images, normal),
        "caption": caption_metrics(
            _captions(test, checkpoint, images, keys), dict(zip(keys, normal, strict=True))
        ),
    }


def _retrieval(
    test: EvaluationTask, checkpoint: str, images: list[bytes], texts: list[list[str]]
) -> dict[str, float]:
    """Recalls of the model; it has left the device when the captioner comes."""
    from capfilt.models.checkpoints.load import load_checkpoint
    from capfilt.models.tasks.placement import load_pixels, place
    from capfilt.models.tasks.retrieval import evaluate_retrieval

    caption = test.config.caption
    med, tokenizer, _ = load_checkpoint(checkpoint, parts="pretrain")
    med = place(med, tokenizer, "auto", caption.precision)
    return evaluate_retrieval(
        med,
        tokenizer,
        load_pixels(images, med.config.vision.image_size, caption.batch_size),
        [text for of_image in texts for text in of_image],
        [i for i, of_image in enumerate(texts) for _ in of_image],
        test.config.k,
        next(med.parameters()).device,
        batch_size=caption.batch_size,
        on_notice=test.notice,
    )


def _captions(test: EvaluationTask, checkpoint: str, images: list[bytes], keys: list[str]) -> dict[str, str]:
    """One caption of each image, by its key."""
    from capfilt.models.tasks.captioner import Captioner

    caption = test.config.caption
    captioner = Captioner.from_checkpoint(
        checkpoint,
        precision=caption.precision,
        prompt=caption.prompt,
        sampling=caption.sampling,
        batch_size=caption.batch_size,
    )
    captioner.batches.on_notice = test.notice
    written = captioner.caption(images, keys, n=1, run_seed=test.seed, round=0)
    return {key: of_image[0].text for key, of_image in zip(keys, written, strict=True)}


def _read(test: EvaluationTask) -> tuple[list[bytes], list[list[str]], list[str]]:
    """Encoded images, their texts and their ids, in manifest order."""
    reader = ReadPairs(PairsConfig(run_dir=test.run))
    images: list[bytes] = []
    texts: list[list[str]] = []
    keys: list[str] = []
    for ref in test.shards:
        for row in reader.read(ref).to_pylist():
            if test.config.limit is None or len(images) < test.config.limit:
                images.append(row["image"])
                texts.append(row["texts"])
                keys.append(f"{row['source']}/{row['key']}")
    return images, texts, keys
