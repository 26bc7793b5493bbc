"""What the driver sends to a training worker. Needs no torch: the learner is imported by the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from capfilt.models.config import Parts
from capfilt.pipeline.config.sections import ModelSection
from capfilt.pipeline.config.tasks import PARTS, Kind
from capfilt.pipeline.config.training import FinetuneSection, ValidationSection
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import Verdicts
from capfilt.stages.pairs.texts import PerImage, Sentences
from capfilt.stages.storage.layout import DEFAULT_VERDICTS
from capfilt.stages.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class LearnerSpec:
    """Everything that determines a training on a worker; picklable."""

    node: str
    kind: Literal["pretrain", "captioner", "filter", "shared", "task"]
    """The section of the config that `train` comes from; "shared": that of the filter, changed."""
    run_dir: Store
    train: FinetuneSection
    model: ModelSection
    start: str | None
    """Checkpoint folder to start from; None = a new MED as described by `model`."""
    tokenizer: str
    """Tokenizer folder of a new MED; a checkpoint brings its own."""
    shards: tuple[ShardRef, ...]
    round: int
    """Round whose candidates are trained on; 0 = the texts of the sources."""
    verdicts: Verdicts = "kept"
    """Which candidates of the round."""
    verdict_set: str = DEFAULT_VERDICTS
    """The set of verdicts that says which are kept."""
    min_itc: float = -1.0
    """Least ITC similarity, if the verdicts are "itc"."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of origins; see `stages.pairs.read.PairsConfig`."""
    per_image: PerImage = "all"
    """Pairs of an image in an epoch; see `stages.pairs.texts.TextsConfig`."""
    sentences: Sentences = "whole"
    """Part of a text that is trained on; see `stages.pairs.texts.TextsConfig`."""
    without_surplus: bool = False
    """Leave surplus copies of duplicate images out; see `stages.pairs.read.PairsConfig`."""
    hold_out: float = 0.0
    """Share of the web images that is left out; see `stages.pairs.hold_out`."""
    validation: ValidationSection | None = None
    """How the training is validated on human images that it does not read."""
    seed: int
    total_steps: int
    steps_per_epoch: int
    provenance: dict[str, Any]
    """Content of the model's provenance.json, apart from what the learner adds."""

    @property
    def section(self) -> str:
        """Path of `train` in the config."""
        return {"pretrain": "pretrain", "shared": "filter.finetune"}.get(self.kind, f"{self.kind}.finetune")

    @property
    def parts(self) -> Parts:
        """The parts of a model that are trained."""
        assert self.kind != "task", "a `TaskSpec` says which"
        return "pretrain" if self.kind == "shared" else self.kind


@dataclass(frozen=True, kw_only=True)
class TaskSpec(LearnerSpec):
    """Everything that determines the finetuning for a downstream task on a worker; picklable."""

    task: str
    """Name of the task in the config."""
    task_kind: Kind
    negatives: int = 1
    """visdial: false answers that are drawn for each question."""

    @property
    def section(self) -> str:
        """Path of `train` in the config."""
        return f"tasks.{self.task}.finetune"

    @property
    def parts(self) -> Parts:
        """The parts of a model that are trained."""
        return PARTS[self.task_kind]
