"""Floating-point operations per training step, counted without side effects."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from capfilt.models.config import ObjectiveConfig
from capfilt.models.training.objectives import Objective
from capfilt.models.training.throughput import peak_flops, training_flops
from tests.models.training.objective_cases import make_med, make_tokenizer

TEXTS = ["a red circle", "a blue square", "two green stars", "one circle"]


def objective(queue_size):
    tokenizer = make_tokenizer()
    config = ObjectiveConfig(queue_size=queue_size, alpha=0.4 if queue_size else 0.0)
    return Objective(make_med(tokenizer), tokenizer, config).train()


def batch(med):
    side = med.config.vision.image_size
    pixels = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    return {"pixels": pixels, "texts": TEXTS, "image_ids": torch.arange(4)}


def test_the_count_is_close_to_that_of_a_real_step():
    model = objective(0)
    pairs = batch(model.med)
    with FlopCounterMode(display=False) as counter:
        model(pairs)["loss"].backward()
    # Slightly above the real count, which needs no gradients of pixels and ids.
    assert counter.get_total_flops() <= training_flops(model, pairs) < 1.15 * counter.get_total_flops()


def test_the_momentum_encoder_costs_a_forward_pass_of_the_unimodal_encoders():
    model = objective(8)
    pairs = batch(model.med)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        states = model.med.encode_image(torch.zeros(pairs["pixels"].shape))
        model.med.image_feature(states)
        ids, mask = model.tokenizer.encode(TEXTS, 30, first="cls")
        model.med.text_feature(ids, mask)
    extra = training_flops(model, pairs) - training_flops(objective(0), pairs)
    similarities = 2 * 2 * 4 * 4 * model.med.config.embed_dim  # the teacher's, both directions
    assert extra == counter.get_total_flops() + similarities


def test_counting_has_no_side_effects():
    model = objective(8)
    pairs = batch(model.med)
    state, draws = {k: str(v) for k, v in model.state_dict().items()}, torch.get_rng_state()
    training_flops(model, pairs)
    assert model.training and model.teacher is not None and not model.teacher.training
    assert {k: str(v) for k, v in model.state_dict().items()} == state
    assert torch.equal(torch.get_rng_state(), draws)


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("Tesla T4", None)]
)
def test_the_peak_depends_on_the_device_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), bfloat16=True) == peak
    assert peak_flops(torch.device("cuda"), bfloat16=False) is None
    assert peak_flops(torch.device("cpu"), bfloat16=True) is None
