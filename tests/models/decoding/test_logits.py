"""Sampling against transformers' logits processors, SciPy's chi-square, and values computed by hand."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from transformers.generation import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from capfilt.models.config import SamplingConfig
from capfilt.models.decoding.logits import apply_repetition_penalty, filter_logits
from capfilt.models.keyed_random import pick, sequence_seed, uniform


def warp(logits, temperature, top_k, top_p):
    """The reference order of transformers: temperature, top-k, top-p."""
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    logits = TemperatureLogitsWarper(temperature)(ids, logits)
    if top_k:
        logits = TopKLogitsWarper(top_k)(ids, logits)
    return TopPLogitsWarper(top_p)(ids, logits) if top_p < 1 else logits


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("top_k", [0, 1, 50])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("vocab", "spread"), [(300, 2.0), (5000, 5.0), (5000, 0.1)])
def test_filter_logits_equals_transformers_warpers(temperature, top_k, top_p, vocab, spread):
    logits = torch.randn(6, vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    ours = filter_logits(logits, temperature, top_k, top_p)
    theirs = warp(logits, temperature, top_k, top_p)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_filter_logits_nucleus_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = {p: torch.isfinite(filter_logits(logits, top_p=p))[0].tolist() for p in (0.4, 0.6, 0.9, 0.97)}
    assert kept[0.4] == [True, False, False, False]
    assert kept[0.6] == [True, True, False, False]
    assert kept[0.9] == [True, True, True, False]
    assert kept[0.97] == [True, True, True, True]


def test_filter_logits_keeps_all_tokens_that_tie_at_the_edge():
    kept = torch.isfinite(filter_logits(torch.tensor([[2.0, 1.0, 1.0, 1.0, -5.0]]), top_p=0.6))
    assert kept.tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize("penalty", [0.5, 1.1, 2.0])
def test_repetition_penalty_equals_transformers(penalty):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 30, generator=generator)
    ids = torch.randint(0, 30, (4, 12), generator=generator)  # 12 of 30: repeats occur
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    torch.testing.assert_close(apply_repetition_penalty(logits, ids, penalty), theirs)


def test_repetition_penalty_skips_masked_positions_and_nothing_else():
    logits, ids = torch.tensor([[1.0, -1.0, 2.0]]), torch.tensor([[0, 1, 2, 2]])
    out = apply_repetition_penalty(logits, ids, 2.0, torch.tensor([[0, 1, 0, 1]]))
    assert out.tolist() == [[1.0, -2.0, 1.0]]


# ---- keyed draws


def splitmix64(seed: int, step: int) -> float:
    """SplitMix64 in Python's unbounded integers, from the published algorithm."""
    wrap = (1 << 64) - 1
    x = (seed + (step + 1) * 0x9E3779B97F4A7C15) & wrap
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & wrap
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & wrap
    x ^= x >> 31
    return (x >> 11) / (1 << 53)


def test_uniform_is_splitmix64():
    # The generator's published first output for state 0 is 0xE220A8397B1DCDAF.
    assert splitmix64(0, 0) == (0xE220A8397B1DCDAF >> 11) / (1 << 53)
    seeds = [0, 1, (1 << 63) - 1, 123456789, sequence_seed(0, 0, "k", 0)]
    for step in (0, 1, 15, 1000):
        assert uniform(torch.tensor(seeds), step).tolist() == [splitmix64(seed, step) for seed in seeds]


def test_uniform_takes_a_step_per_sequence():
    seeds = torch.tensor([5, 5, 6])
    both = uniform(seeds, torch.tensor([0, 3, 3])).tolist()
    assert both == [splitmix64(5, 0), splitmix64(5, 3), splitmix64(6, 3)]


def test_uniform_is_uniform_over_rows_steps_and_captions():
    def seeds(keys, captions):
        return torch.tensor(
            [sequence_seed(1, 0, f"{k:011d}", c) for k in range(keys) for c in range(captions)]
        )

    over_rows = uniform(seeds(4000, 1), 0).numpy()
    over_steps = np.concatenate([uniform(seeds(1, 1), step).numpy() for step in range(4000)])
    over_captions = uniform(seeds(1, 4000), 3).numpy()
    for sample in (over_rows, over_steps, over_captions):
        assert stats.kstest(sample, "uniform").pvalue > 1e-3
    two_steps = np.corrcoef(over_rows, uniform(seeds(4000, 1), 1).numpy())[0, 1]
    assert abs(two_steps) < 4 / np.sqrt(4000)


def test_sequence_seed_tells_every_part_of_the_identity_apart():
    identities = itertools.product(
        [0, 1, 11], [0, 1, 11], ["0", "1", "1:0", "0:1", "ü", "\ud800"], [0, 1, 11]
    )
    seeds = [sequence_seed(*identity) for identity in identities]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_sequence_seed_is_the_hash_it_says():
    import hashlib

    digest = hashlib.blake2b(b"7:2:1:00001200034", digest_size=8).digest()
    assert sequence_seed(7, 2, "00001200034", 1) == int.from_bytes(digest, "big") // 2


# ---- picking


def test_pick_by_hand():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).repeat(6, 1)
    u = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert pick(probs, u).tolist() == [1, 1, 3, 3, 4, 4]


def test_pick_normalises_and_survives_a_large_vocabulary():
    probs = torch.full((2, 30524), 3.0)
    u = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert pick(probs, u).tolist() == [0, 30523]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 0.9), (1.3, 0, 0.8), (1.0, 12, 0.95)])
def test_keyed_draws_follow_the_distribution_of_transformers_warpers(temperature, top_k, top_p):
    draws = 20_000
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(3)) * 1.5
    expected = warp(logits, temperature, top_k, top_p).softmax(-1)[0].double().numpy()
    seeds = torch.tensor([sequence_seed(0, 1, f"{row:011d}", 0) for row in range(draws)])
    probs = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
    tokens = pick(probs.expand(draws, -1), uniform(seeds, 2)).numpy()
    observed = np.bincount(tokens, minlength=60)
    assert observed[expected == 0].sum() == 0
    kept = expected > 0
    assert kept.sum() > 5
    assert stats.chisquare(observed[kept], expected[kept] / expected.sum() * draws).pvalue > 1e-3


# ---- config


def test_sampling_config_default_is_the_papers_and_the_preset_is_the_codes():
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
def test_sampling_config_refuses_what_is_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        SamplingConfig(**{field: value})
