"""The model that a training starts with."""

from dataclasses import replace

import pytest
import torch

from capfilt.pipeline.training.initial_model import build_initial_model
from capfilt.pipeline.training.learner import PairLearner
from tests.pipeline.training.training_scene import WORKER


def recomputing(med):
    return [block.recompute for block in med.visual_encoder.blocks]


def test_a_new_model_is_that_of_the_config(scene):
    med, tokenizer = build_initial_model(scene.spec())
    assert med.config.text.vocab_size == tokenizer.vocab_size
    assert med.config.vision == scene.spec().model.med.vision
    assert recomputing(med) == [False]


def test_a_training_may_change_image_size_and_recomputation(scene):
    med, _ = build_initial_model(scene.spec(image_size=48, checkpoint_layers=1))
    assert med.config.vision.image_size == 48 and recomputing(med) == [True]


@pytest.fixture(scope="module")
def checkpoint(scene):
    """Address of a pretrained MED."""
    learner = PairLearner(scene.spec("pretrain.7"), WORKER)
    learner.finish()
    return scene.run_dir.address("models/pretrain.7"), learner.med


@pytest.mark.parametrize("kind", ["captioner", "filter"])
def test_a_finetuning_starts_from_a_checkpoint(scene, checkpoint, kind):
    address, pretrained = checkpoint
    spec = replace(scene.spec("finetuned"), kind=kind, start=address, tokenizer="")
    med, tokenizer = build_initial_model(spec)
    assert tokenizer.vocab_size == pretrained.config.text.vocab_size
    weights = med.state_dict()
    assert all(
        torch.equal(weights[name], value)
        for name, value in pretrained.state_dict().items()
        if name in weights
    )
    assert set(weights) & set(pretrained.state_dict())


def test_a_finetuning_may_change_image_size_and_recomputation(scene, checkpoint):
    spec = replace(scene.spec(image_size=64, checkpoint_layers=1), kind="captioner", start=checkpoint[0])
    med, _ = build_initial_model(spec)
    assert med.config.vision.image_size == 64 and recomputing(med) == [True]
