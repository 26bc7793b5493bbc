"""A run directory with training pairs, and the spec of a tiny training on it."""

from dataclasses import dataclass

import torch

from capfilt.cluster.training.trainer import Worker
from capfilt.models.config import (
    AugmentConfig,
    MedConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TextConfig,
    VisionConfig,
)
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.config.sections import ModelSection
from capfilt.pipeline.config.training import TrainSection
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.stages.storage.store import Store
from tests.clean_pairs import clean_pairs

WORKER = Worker(0, 1, torch.device("cpu"))
BATCH_SIZE, STEPS, STEPS_PER_EPOCH = 8, 12, 3


@dataclass(frozen=True)
class TrainingScene:
    """A run directory with 24 clean pairs as corpus shards, and a tokenizer of their words."""

    run_dir: Store
    tokenizer: str
    shards: tuple

    def spec(
        self, node="pretrain.0", *, losses=("itc", "itm", "lm"), queue=16, lr=1e-3, dropout=0.1, **train
    ):
        """Spec of a pretraining of twelve steps of eight pairs; `train` are keys of its section."""
        text = TextConfig(width=16, depth=1, heads=2, ffn=32, max_positions=64, dropout=dropout)
        vision = VisionConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2)
        section = {"batch_size": BATCH_SIZE, "steps": STEPS, "decode_threads": 0, **train}
        return LearnerSpec(
            node=node,
            kind="pretrain",
            run_dir=self.run_dir,
            train=TrainSection(
                objective=ObjectiveConfig(losses=losses, queue_size=queue, alpha=0.4 if queue else 0.0),
                optimizer=OptimizerConfig(lr=lr, warmup_steps=2, min_lr=0.0, warmup_lr=0.0),
                augment=AugmentConfig(min_scale=0.6),
                **section,
            ),
            model=ModelSection(med=MedConfig(vision=vision, text=text, embed_dim=8)),
            start=None,
            tokenizer=self.tokenizer,
            shards=self.shards,
            round=0,
            seed=3,
            total_steps=section["steps"],
            steps_per_epoch=STEPS_PER_EPOCH,
            provenance={},
        )


def make_scene(folder):
    run_dir, shards = clean_pairs(folder)
    tokenizer = Tokenizer.train(["a red circle and a blue square next to a green star"], 120)
    tokenizer.save(folder / "tokenizer")
    return TrainingScene(run_dir, str(folder / "tokenizer"), shards)
