"""Learning rates against values by hand, weight decay, parameter groups, clipping."""

import math

import pytest
import torch
from torch import nn

from capfilt.models.config import OptimizerConfig
from capfilt.models.training.optimizer import build_optimizer, clip_gradient, learning_rate, set_learning_rate
from tests.models.training.objective_cases import make_med, make_tokenizer


def rates(config: OptimizerConfig, steps: list[int], total: int, per_epoch: int) -> list[float]:
    return [learning_rate(config, step, total, per_epoch) for step in steps]


def test_warm_up_rises_linearly_to_the_decayed_rate() -> None:
    config = OptimizerConfig(lr=1e-3, warmup_steps=10, warmup_lr=0, decay_rate=0.5, min_lr=0)
    # Two epochs of 10 steps: without warm-up the rate is 1e-3 * 0.5 ** (step / 10).
    expected = [0, 1e-3 * 0.5**0.5 * 0.5, 1e-3 * 0.5**1.0, 1e-3 * 0.5**1.5]
    assert rates(config, [0, 5, 10, 15], 20, 10) == pytest.approx(expected)


def test_exponential_decay_per_epoch_is_the_references_step_function() -> None:
    config = OptimizerConfig.reference(lr=3e-4, warmup_steps=0, min_lr=1e-6)
    # 3e-4 * 0.9 ** epoch, at least 1e-6 (reached after 55 epochs).
    assert rates(config, [0, 9, 10, 29], 600, 10) == pytest.approx([3e-4, 3e-4, 2.7e-4, 2.43e-4])
    assert learning_rate(config, 599, 600, 10) == 1e-6


def test_cosine_and_linear_decay_reach_min_lr_at_the_last_step() -> None:
    for schedule in ("cosine", "linear"):
        config = OptimizerConfig(lr=1e-3, schedule=schedule, warmup_steps=0, min_lr=2e-4)
        assert rates(config, [0, 50, 100], 100, 10) == pytest.approx([1e-3, 6e-4, 2e-4])
    quarter = OptimizerConfig(lr=1.0, schedule="cosine", warmup_steps=0, min_lr=0)
    assert learning_rate(quarter, 25, 100, 10) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_cosine_decay_per_epoch_changes_only_between_epochs() -> None:
    config = OptimizerConfig(
        lr=1e-5, schedule="cosine", warmup_steps=0, warmup_lr=0, min_lr=0, decay_every="epoch"
    )
    assert rates(config, [0, 9], 50, 10) == pytest.approx([1e-5, 1e-5])
    assert learning_rate(config, 20, 50, 10) == pytest.approx(1e-5 * 0.5 * (1 + math.cos(math.pi * 2 / 5)))


def test_constant_stays_at_lr() -> None:
    config = OptimizerConfig(lr=1e-3, schedule="constant", warmup_steps=2, warmup_lr=0)
    assert rates(config, [1, 2, 99], 100, 10) == pytest.approx([5e-4, 1e-3, 1e-3])


def test_only_matrices_decay() -> None:
    med = make_med(make_tokenizer())
    names = {parameter: name for name, parameter in med.named_parameters()}
    groups = build_optimizer(med, OptimizerConfig(weight_decay=0.05)).param_groups
    decay = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(names)  # every parameter, shared ones once
    for name, value in decay.items():
        excluded = "norm" in name.lower() or name.endswith(("bias", "temp"))
        excluded |= "position" in name or "pos_embed" in name or "cls_token" in name
        assert value == (0.0 if excluded else 0.05), name


def test_the_reference_preset_decays_all_parameters() -> None:
    groups = build_optimizer(make_med(make_tokenizer()), OptimizerConfig.reference()).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05]


def test_the_image_encoder_has_its_own_rate_and_frozen_parameters_are_left_out() -> None:
    med = make_med(make_tokenizer())
    med.temp.requires_grad_(False)
    optimizer = build_optimizer(nn.ModuleDict({"med": med}), OptimizerConfig(vision_lr_scale=0.2))
    set_learning_rate(optimizer, 1e-2)
    vision = set(med.visual_encoder.parameters())
    count = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert parameter is not med.temp
            assert group["lr"] == pytest.approx(2e-3 if parameter in vision else 1e-2)
            count += 1
    assert count == len(list(med.parameters())) - 1


def test_clipping_scales_the_whole_gradient_and_zero_disables_it() -> None:
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    for limit, expected in ((1.0, [0.6, 0.8]), (0.0, [3.0, 4.0]), (10.0, [3.0, 4.0])):
        for parameter, gradient in zip(parameters, (3.0, 4.0), strict=True):
            parameter.grad = torch.tensor([gradient])
        assert clip_gradient(parameters, OptimizerConfig(clip_grad=limit)).item() == pytest.approx(5.0)
        assert [p.grad.item() for p in parameters] == pytest.approx(expected, rel=1e-5)


def test_min_lr_and_warmup_lr_must_not_exceed_lr() -> None:
    with pytest.raises(ValueError, match="must not exceed lr 1e-07"):
        OptimizerConfig(lr=1e-7)
    with pytest.raises(ValueError, match=r"warmup_lr 0\.002 must not exceed lr 0\.001"):
        OptimizerConfig(lr=1e-3, warmup_lr=2e-3)
    equal = OptimizerConfig(lr=1e-6, min_lr=1e-6, warmup_lr=1e-6)
    assert learning_rate(equal, 0, 10, 5) == pytest.approx(1e-6)


def test_warm_up_ends_at_warmup_steps() -> None:
    config = OptimizerConfig(lr=1.0, schedule="constant", warmup_steps=4, warmup_lr=0)
    assert rates(config, [3, 4, 5], 10, 5) == [0.75, 1.0, 1.0]
