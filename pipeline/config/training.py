"""The sections of a config that describe a training, and the base of all sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from capfilt.cluster.config import WorkersConfig
from capfilt.models.config import AugmentConfig, ObjectiveConfig, OptimizerConfig


class Section(BaseModel):
    """Base of every section: unknown keys are errors, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class FinetuneSection(Section):
    """One training: objective, optimizer and workers."""

    objective: ObjectiveConfig
    """The losses."""
    optimizer: OptimizerConfig
    """The optimizer and its schedule."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation of the images."""
    batch_size: Annotated[int, Field(ge=2)] = 2400
    """Pairs per optimizer step, over all workers (paper: 2,880 for ViT-B, 2,400 for ViT-L)."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Gradient accumulation: number of pieces into which each worker's batch is divided, to save memory. ITC
    and ITM compare pairs within a piece (and with the queue)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the matrix products; weights and losses are float32. `auto`: bfloat16 on GPUs that support
    it."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the pairs (paper: 20 for pretraining). Give either this or `steps`."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps. Give either this or `epochs`."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the square input in pixels. Default: that of the model it starts from."""
    window_shards: Annotated[int, Field(ge=1)] = 16
    """Number of shards whose pairs are shuffled together. The cluster's object store holds the encoded images
    of these shards and of as many that follow; each worker receives its part of them."""
    decode_threads: Annotated[int, Field(ge=0)] = 4
    """Threads that decode and augment the next batches during a step; 0: the training loop does it itself."""
    checkpoint_layers: Annotated[int, Field(ge=0)] | None = None
    """Number of last blocks of the image encoder that recompute their activations in the backward pass: saves
    memory, costs time, does not change the result (reference: 0 to 12 by task and size). Default:
    `model.med.vision.checkpoint_layers`."""
    workers: WorkersConfig = WorkersConfig()
    """Worker processes and their resources."""

    @model_validator(mode="after")
    def _check_length_and_batch(self) -> FinetuneSection:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        shares = self.workers.workers * self.accumulate
        if self.batch_size % shares:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be divided among {self.workers.workers} workers x "
                f"{self.accumulate} pieces (accumulate); allowed: multiples of {shares}"
            )
        return self


class TrainSection(FinetuneSection):
    """A training on sources of the run."""

    sources: tuple[str, ...] | None = None
    """Names of the sources to train on. Default: all human and web sources for pretraining, all human sources
    for a finetuning (paper: only COCO)."""


class ValidationSection(Section):
    """Early stop of a finetuning: which of its steps is kept, by the loss on images that it does not read."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the human images that are held out, chosen by their keys. Their texts are not trained on."""
    every: Annotated[int, Field(ge=1)] = 50
    """Steps from one validation to the next; the last step is validated too. The mean of the losses is taken
    without augmentation, dropout, label smoothing, queue and momentum encoder."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Validations in a row without a lower loss after which the training ends."""


class RoleSection(TrainSection):
    """The finetuning of the captioner or of the filter."""

    validation: ValidationSection | None = None
    """Keep the weights of the step with the lowest loss on held-out human images, and end early. Default: the
    last step is kept, and all human images are read."""


PAPER: dict[str, dict[str, Any]] = {
    "vqa": {"lr": 2e-5, "epochs": 10, "image_size": 480, "objective": {"max_tokens": 35}},
    "nlvr2": {
        "lr": 3e-5,
        "epochs": 15,
        "image_size": 384,
        "objective": {"max_tokens": 60, "max_words": 40},
    },
    "retrieval": {
        "lr": 1e-5,
        "epochs": 6,
        "image_size": 384,
        "objective": {"max_tokens": 35, "alpha_ramp_epochs": 1, "negative_all_rank": True},
    },
    "caption": {
        "lr": 1e-5,
        "epochs": 5,
        "image_size": 384,
        "objective": {"max_tokens": 40, "prompt": "a picture of "},
    },
    "visdial": {
        "lr": 2e-5,
        "epochs": 20,
        "image_size": 384,
        "batch_size": 240,
        "objective": {"max_tokens": 256},
    },
}
PAPER["video_retrieval"], PAPER["video_qa"] = PAPER["retrieval"], PAPER["vqa"]
"""Table 14 of the paper for ViT-B; lengths, prompt, ramp and negatives are those of the reference code. Of
visdial neither has the image size, which is that of the other tasks but vqa, nor the length, which is
VD-ViLBERT's. It finetunes on no video; the values are those of the same task on images."""
PAPER_BATCH = 256


def complete_finetuning(kind: str, losses: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """The section of a finetuning for a downstream task: the paper's values where keys are left out.

    Args:
        kind: of the task.
        losses: what it trains with.
        given: the keys that are not left out.
    """
    paper = PAPER[kind]
    optimizer = {
        "lr": paper["lr"],
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_steps": 0,
        "warmup_lr": 0.0,
        "min_lr": 0.0,
    }
    data = {"batch_size": paper.get("batch_size", PAPER_BATCH), "image_size": paper["image_size"], **given}
    if data.get("steps") is None and data.get("epochs") is None:
        data["epochs"] = paper["epochs"]
    objective = {"losses": list(losses), **paper["objective"]}
    for name, values in (("objective", objective), ("optimizer", optimizer)):
        if isinstance(data.get(name, {}), dict):  # anything else is a mistake, which pydantic reports
            data[name] = values | data.get(name, {})
    data.setdefault("augment", {"min_scale": 0.5})
    return data
