"""NEW FILE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from capfilt.models.checkpoints.load import load_checkpoint
from capfilt.models.checkpoints.pretrained_start import load_text_start, load_vision_start
from capfilt.models.config import MedConfig
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.stages.storage.artifacts import local_artifact


def start_model(spec: LearnerSpec) -> tuple[MED, Tokenizer]:
    """The model a training begins with.

    A finetuning starts from the last MED; pretraining from new weights, with the image encoder and the text
    transformer of the config's starts where they are given.
    """
    if spec.start is not None:
        med, tokenizer, _ = load_checkpoint(
            local_artifact(spec.start, spec.node, spec.run),
            parts=spec.kind,
            image_size=spec.train.image_size,
            adapt=partial(_recomputing, layers=spec.train.checkpoint_layers),
        )
        return med, tokenizer
    tokenizer = Tokenizer.from_folder(local_artifact(spec.tokenizer, "model.tokenizer", spec.run))
    config = spec.model.med
    vision = config.vision
    if spec.train.image_size is not None:
        vision = replace(vision, image_size=spec.train.image_size)
    config = replace(config, vision=vision, text=replace(config.text, vocab_size=tokenizer.vocab_size))
    med = MED(_recomputing(config, spec.train.checkpoint_layers))
    if spec.model.vision_start is not None:
        load_vision_start(med, spec.model.vision_start)
    if spec.model.text_start is not None:
        folder = local_artifact(spec.model.text_start, "model.text_start", spec.run)
        load_text_start(med, folder, tokenizer, first_layers=spec.model.text_start_layers == "first")
    return med, tokenizer


def _recomputing(config: MedConfig, layers: int | None) -> MedConfig:
    """The config with as many recomputing vision blocks as a training asks for; its own number for None."""
    if layers is None:
        return config
    return replace(config, vision=replace(config.vision, checkpoint_layers=layers))
