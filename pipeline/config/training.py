"""The sections of a config that describe a training, and the base of all sections."""

from __future__ import annotations

from typing import Annotated, Literal

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
    """Number of shards whose pairs are shuffled together."""
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
