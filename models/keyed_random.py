"""NEW FILE."""

import hashlib

import torch
from torch import Tensor


def sequence_seed(run_seed: int, round: int, key: str, caption_index: int) -> int:
    """The 63-bit seed of one caption: a hash of what identifies it, the same on every machine and in every
    batch."""
    identity = f"{run_seed}:{round}:{caption_index}:{key}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(identity, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def uniform(seeds: Tensor, step: int | Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64, one per seed: a function of seed (int64 [M]) and step alone.

    Integer arithmetic only (int64 wraps around alike on CPU and GPU), so that every device draws the same
    bits.
    """
    x = seeds + (step + 1) * _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 11).double() * 2.0**-53  # 53 bits: what a float64 holds exactly


def _signed(constant: int) -> Tensor:
    """An unsigned 64-bit constant as the int64 with the same bits (a 0-dim CPU tensor mixes with any
    device)."""
    return torch.tensor(constant - (1 << 64) if constant >= 1 << 63 else constant)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's own shift of a negative int64 pulls in ones."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def pick(probs: Tensor, u: Tensor) -> Tensor:
    """Inverse of the cumulative distribution: token ids [M] for probabilities [M, V], of any sum, and u [M].

    In float64, so that no token's share of [0, 1) drowns in rounding and one of probability 0 is never drawn.
    """
    cdf = probs.double().cumsum(-1)
    target = u.double()[:, None] * cdf[:, -1:]
    return torch.searchsorted(cdf, target, right=True)[:, 0]
