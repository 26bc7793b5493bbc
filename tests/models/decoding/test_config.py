"""SamplingConfig: defaults, preset, and limits on both sides."""

import pytest

from capfilt.models.decoding.config import SamplingConfig


def test_defaults_are_the_papers_and_the_preset_is_the_reference_codes():
    paper, code = SamplingConfig(), SamplingConfig.reference()
    assert (paper.strategy, paper.top_p, paper.top_k, paper.repetition_penalty) == ("nucleus", 0.9, 0, 1.0)
    assert (code.top_p, code.top_k, code.repetition_penalty, code.penalty_scope) == (0.9, 50, 1.1, "all")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("temperature", 0.0),
        ("repetition_penalty", -1.0),
        ("max_new_tokens", 0),
        ("min_new_tokens", 17),
        ("num_beams", 1),
    ],
)
def test_values_out_of_range_are_rejected(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        SamplingConfig(**{field: value})


@pytest.mark.parametrize(
    "values",
    [
        {"top_p": 1.0},
        {"top_p": 1e-6},
        {"top_k": 0},
        {"temperature": 1e-6},
        {"repetition_penalty": 1e-6},
        {"max_new_tokens": 1},
        {"min_new_tokens": 0},
        {"min_new_tokens": 16, "max_new_tokens": 16},
        {"min_new_tokens": 0, "max_new_tokens": 1},
        {"num_beams": 2},
    ],
)
def test_values_at_the_limits_are_accepted(values):
    config = SamplingConfig(**values)
    assert {name: getattr(config, name) for name in values} == values


def test_negative_min_new_tokens_is_rejected():
    with pytest.raises(ValueError, match="min_new_tokens is -1"):
        SamplingConfig(min_new_tokens=-1)
