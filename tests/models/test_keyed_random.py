"""Counter-based random numbers against the published generator, SciPy's tests, and values by hand."""

import hashlib
import itertools

import numpy as np
import torch
from scipy import stats

from capfilt.models.keyed_random import sample_categorical, sequence_seed, uniform


def splitmix64(seed: int, step: int) -> float:
    """SplitMix64 with Python integers, from the published algorithm."""
    wrap = (1 << 64) - 1
    x = (seed + (step + 1) * 0x9E3779B97F4A7C15) & wrap
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & wrap
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & wrap
    x ^= x >> 31
    return (x >> 11) / (1 << 53)


def test_uniform_is_splitmix64():
    # The published first output for state 0 is 0xE220A8397B1DCDAF.
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


def test_sequence_seed_distinguishes_every_part_of_the_identity():
    identities = itertools.product(
        [0, 1, 11], [0, 1, 11], ["0", "1", "1:0", "0:1", "ü", "\ud800"], [0, 1, 11]
    )
    seeds = [sequence_seed(*identity) for identity in identities]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_sequence_seed_is_half_of_a_blake2b_hash():
    digest = hashlib.blake2b(b"7:2:1:00001200034", digest_size=8).digest()
    assert sequence_seed(7, 2, "00001200034", 1) == int.from_bytes(digest, "big") // 2


def test_sample_categorical_by_hand():
    probs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).repeat(6, 1)
    u = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert sample_categorical(probs, u).tolist() == [1, 1, 3, 3, 4, 4]


def test_sample_categorical_normalizes_and_handles_a_large_vocabulary():
    probs = torch.full((2, 30524), 3.0)
    u = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert sample_categorical(probs, u).tolist() == [0, 30523]
