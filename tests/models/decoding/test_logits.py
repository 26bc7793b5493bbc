"""Filters and penalties on logits against the logits processors of transformers, and by hand."""

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

from capfilt.models.decoding.logits import (
    GROWTH,
    PREFIX,
    apply_repetition_penalty,
    filter_candidates,
    filter_logits,
)
from capfilt.models.keyed_random import sample_categorical, sequence_seed, uniform


def hf_filter(logits, temperature, top_k, top_p):
    """Temperature, top-k and top-p in the order of transformers."""
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    logits = TemperatureLogitsWarper(temperature)(ids, logits)
    if top_k:
        logits = TopKLogitsWarper(top_k)(ids, logits)
    return TopPLogitsWarper(top_p)(ids, logits) if top_p < 1 else logits


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("top_k", [0, 1, 50])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("vocab", "spread"), [(300, 2.0), (5000, 5.0), (5000, 0.1)])
def test_filter_logits_equals_transformers(temperature, top_k, top_p, vocab, spread):
    logits = torch.randn(6, vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    ours = filter_logits(logits, temperature, top_k, top_p)
    theirs = hf_filter(logits, temperature, top_k, top_p)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_filter_logits_nucleus_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = {p: torch.isfinite(filter_logits(logits, top_p=p))[0].tolist() for p in (0.4, 0.6, 0.9, 0.97)}
    assert kept[0.4] == [True, False, False, False]
    assert kept[0.6] == [True, True, False, False]
    assert kept[0.9] == [True, True, True, False]
    assert kept[0.97] == [True, True, True, True]


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.875, 3)])
def test_the_nucleus_ends_when_its_mass_reaches_top_p(top_p, kept):
    probs = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]])
    logits = probs.log()
    assert torch.equal(logits.softmax(-1), probs), "the boundaries are exact"
    assert torch.isfinite(filter_logits(logits, top_p=top_p)).sum() == kept


def test_filter_logits_keeps_all_tokens_that_tie_with_the_last_one():
    kept = torch.isfinite(filter_logits(torch.tensor([[2.0, 1.0, 1.0, 1.0, -5.0]]), top_p=0.6))
    assert kept.tolist() == [[True, True, True, True, False]]


def scattered(logits, **options):
    """`filter_candidates`, put back into the vocabulary."""
    kept, candidates = filter_candidates(logits, **options)
    assert (candidates.diff(dim=-1) > 0).all(), "ascending"
    return torch.full_like(logits, -torch.inf).scatter(-1, candidates, kept), candidates.shape[-1]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("top_k", [0, 50, PREFIX - 1, PREFIX, PREFIX + 1, 9000])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 1.0])
@pytest.mark.parametrize(("vocab", "spread"), [(PREFIX, 1.0), (PREFIX + 1, 1.0), (9000, 5.0), (9000, 0.1)])
def test_candidates_are_what_the_filter_keeps(temperature, top_k, top_p, vocab, spread):
    logits = torch.randn(4, vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    assert torch.equal(scattered(logits, **options)[0], filter_logits(logits, **options))


@pytest.mark.parametrize(("nucleus", "candidates"), [(PREFIX - 1, PREFIX), (PREFIX, PREFIX * GROWTH)])
def test_more_candidates_are_selected_when_the_nucleus_fills_the_first_ones(nucleus, candidates):
    logits = torch.full((2, 5000), -20.0)
    logits[:, torch.arange(nucleus) * 3] = torch.linspace(0, 1, nucleus)
    kept, count = scattered(logits, top_p=0.9999)
    assert count == candidates
    assert torch.equal(kept, filter_logits(logits, top_p=0.9999))


def test_ties_beyond_the_first_candidates_are_kept():
    logits = torch.zeros(1, 5000)
    kept, _ = scattered(logits, top_p=0.5)
    assert torch.equal(kept, logits)


@pytest.mark.parametrize("penalty", [0.5, 1.1, 2.0])
def test_repetition_penalty_equals_transformers(penalty):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 30, generator=generator)
    ids = torch.randint(0, 30, (4, 12), generator=generator)  # 12 of 30 tokens, so some repeat
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    torch.testing.assert_close(apply_repetition_penalty(logits, ids, penalty), theirs)


def test_repetition_penalty_by_hand():
    logits = torch.tensor([[1.0, -1.0, 2.0, 3.0, 0.0]])
    penalized = apply_repetition_penalty(logits, torch.tensor([[1, 2, 2, 4]]), 2.0)
    assert penalized.tolist() == [[1.0, -2.0, 1.0, 3.0, 0.0]]
    assert logits.tolist() == [[1.0, -1.0, 2.0, 3.0, 0.0]]


def test_repetition_penalty_without_earlier_tokens_changes_nothing():
    logits = torch.tensor([[1.0, -1.0]])
    assert torch.equal(apply_repetition_penalty(logits, torch.empty(1, 0, dtype=torch.long), 2.0), logits)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 0.9), (1.3, 0, 0.8), (1.0, 12, 0.95)])
def test_keyed_draws_follow_the_distribution_of_transformers(temperature, top_k, top_p):
    draws = 20_000
    logits = torch.randn(1, 60, generator=torch.Generator().manual_seed(3)) * 1.5
    expected = hf_filter(logits, temperature, top_k, top_p).softmax(-1)[0].double().numpy()
    seeds = torch.tensor([sequence_seed(0, 1, f"{row:011d}", 0) for row in range(draws)])
    probs = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
    tokens = sample_categorical(probs.expand(draws, -1), uniform(seeds, 2)).numpy()
    observed = np.bincount(tokens, minlength=60)
    assert observed[expected == 0].sum() == 0
    kept = expected > 0
    assert kept.sum() > 5
    assert stats.chisquare(observed[kept], expected[kept] / expected.sum() * draws).pvalue > 1e-3
