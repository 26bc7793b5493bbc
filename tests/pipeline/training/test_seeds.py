"""Seeds of a training's draws."""

import hashlib

from capfilt.pipeline.training.seeds import derive_seed


def test_a_seed_is_the_hash_of_its_arguments():
    digest = hashlib.blake2b(b"dropout:3:40:1", digest_size=8).digest()
    assert derive_seed(3, "dropout", 40, 1) == int.from_bytes(digest, "big") // 2


def test_every_argument_counts():
    arguments = [(3, "dropout", 40, 1), (4, "dropout", 40, 1), (3, "augment", 40, 1), (3, "dropout", 41, 1)]
    arguments += [(3, "dropout", 40, 2), (3, "dropout", 40), (3, "dropout", 401), (34, "dropout", 0, 1)]
    assert len({derive_seed(*each) for each in arguments}) == len(arguments)


def test_seeds_use_63_bits():
    """They are not negative, as torch and random require, and spread over the whole range."""
    seeds = [derive_seed(0, "augment", sample) for sample in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds) and len(set(seeds)) == 1000
    assert 400 < sum(seed >= 2**62 for seed in seeds) < 600
    assert 400 < sum(seed % 2 for seed in seeds) < 600
