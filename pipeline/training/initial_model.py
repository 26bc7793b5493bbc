"""The model that a training starts with: a checkpoint, or new weights, in part from pretrained encoders."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from capfilt.models.checkpoints.load import load_checkpoint
from capfilt.models.checkpoints.pretrained_start import load_text_start, load_vision_start
from capfilt.models.config import MedConfig
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.stages.storage.artifacts import ensure_local


def build_initial_model(spec: LearnerSpec) -> tuple[MED, Tokenizer]:
    """Load or initialize the MED of a training, and its tokenizer.

    With `spec.start`, both come from that checkpoint. Otherwise the weights are new, except that the image
    encoder and the text transformer are loaded from the config's `vision_start` and `text_start` if given.
    """
    if spec.start is not None:
        med, tokenizer, _ = load_checkpoint(
            ensure_local(spec.start, spec.node, spec.run_dir),
            parts=spec.parts,
            image_size=spec.train.image_size,
            tokenizer=_given_tokenizer(spec),
            adapt=partial(_with_activation_checkpointing, layers=spec.train.checkpoint_layers),
        )
        return med, tokenizer
    tokenizer = Tokenizer.from_folder(ensure_local(spec.tokenizer, "model.tokenizer", spec.run_dir))
    med = MED(_new_config(spec, tokenizer.vocab_size))
    if spec.model.vision_start is not None:
        load_vision_start(med, spec.model.vision_start)
    if spec.model.text_start is not None:
        folder = ensure_local(spec.model.text_start, "model.text_start", spec.run_dir)
        load_text_start(med, folder, tokenizer, first_layers=spec.model.text_start_layers == "first")
    return med, tokenizer


def _given_tokenizer(spec: LearnerSpec) -> str | None:
    """Folder of the tokenizer for a start that brings none."""
    if not spec.tokenizer:
        return None
    return ensure_local(spec.tokenizer, f"{spec.section.removesuffix('.finetune')}.tokenizer", spec.run_dir)


def _new_config(spec: LearnerSpec, vocab_size: int) -> MedConfig:
    """The config of a new MED, with the image size of the training and the size of the vocabulary."""
    config = spec.model.med
    vision = config.vision
    if spec.train.image_size is not None:
        vision = replace(vision, image_size=spec.train.image_size)
    config = replace(config, vision=vision, text=replace(config.text, vocab_size=vocab_size))
    return _with_activation_checkpointing(config, spec.train.checkpoint_layers)


def _with_activation_checkpointing(config: MedConfig, layers: int | None) -> MedConfig:
    """The config with so many vision blocks that recompute their activations; unchanged for None."""
    if layers is None:
        return config
    return replace(config, vision=replace(config.vision, checkpoint_layers=layers))
