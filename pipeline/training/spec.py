"""What the driver tells a training worker. The learner itself, and torch with it, is imported by the worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from capfilt.pipeline.config.sections import ModelSection, TrainSection
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.storage.store import Store

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class LearnerSpec:
    """Everything a training worker needs to know; picklable."""

    node: str
    kind: Literal["pretrain", "captioner", "filter"]
    run: Store
    train: TrainSection
    model: ModelSection
    start: str | None
    """Checkpoint folder to start from; None = a new MED as `model` says."""
    tokenizer: str
    """Tokenizer folder."""
    shards: tuple[ShardRef, ...]
    round: int
    """Round whose kept candidates train; 0 = the texts as they came."""
    without_surplus: bool = False
    """See `PairsConfig`."""
    seed: int
    total_steps: int
    steps_per_epoch: int
    provenance: dict[str, Any]

    @property
    def section(self) -> str:
        """Where `train` stands in the config."""
        return self.kind if self.kind == "pretrain" else f"{self.kind}.finetune"
