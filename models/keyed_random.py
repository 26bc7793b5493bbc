"""Counter-based random numbers: each draw is a pure function of a seed and a step.

No generator holds state, so batch size, worker, order, retry and resume do not change a draw.
The generator is SplitMix64 (Steele et al. 2014).
"""

import hashlib

import torch
from torch import Tensor


def sequence_seed(run_seed: int, round: int, key: str, caption_index: int) -> int:
    """A 63-bit seed for one caption: a hash of its identity, the same on every machine and in every batch."""
    identity = f"{run_seed}:{round}:{caption_index}:{key}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(identity, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def uniform(seeds: Tensor, step: int | Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64 [M], one for each of the int64 seeds [M] at a step.

    Uses only integer arithmetic, which wraps around identically on CPU and GPU, so all devices draw the same
    bits.
    """
    x = seeds + (step + 1) * _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 11).double() * 2.0**-53  # the 53 bits that a float64 represents exactly


def sample_categorical(probs: Tensor, u: Tensor) -> Tensor:
    """Sample by the inverse cumulative distribution: indices [M] for weights [M, V] and uniform numbers u
    [M].

    The weights of a row may have any sum. Sums are float64, so that rounding neither loses a small weight nor
    selects an index of weight 0.
    """
    cdf = probs.double().cumsum(-1)
    target = u.double()[:, None] * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True)[:, 0]


def _signed(constant: int) -> Tensor:
    """An unsigned 64-bit constant as the int64 of the same bits; a 0-dim CPU tensor combines with any
    device."""
    return torch.tensor(constant - (1 << 64) if constant >= 1 << 63 else constant)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own shift of a negative int64 is arithmetic and fills with ones."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
