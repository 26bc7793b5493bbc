"""From logits to a token: filters, penalties, and draws keyed by row instead of taken from a generator.

Shapes: M sequences, V vocabulary, T earlier tokens. Every function is pure and runs where its tensors lie.
Sources: nucleus sampling, Holtzman et al. 2020 (arXiv 1904.09751); the repetition penalty, Keskar et al. 2019
(arXiv 1909.05858); the counter-based generator, SplitMix64, Steele et al. 2014.
"""

import hashlib

import torch
from torch import Tensor

# ---- keyed draws


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


# ---- logits


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits [M, V] over the temperature, with all but the top_k tokens, then all but the nucleus, at -inf.

    The nucleus is the smallest set of most probable tokens that holds at least `top_p` of the mass. Tokens
    that tie with the least probable one kept are kept too: the outcome depends on no sorting order, and bf16
    ties often.
    """
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        probs = logits.softmax(-1)
        logits = logits.masked_fill(probs < _nucleus_floor(probs, top_p), -torch.inf)
    return logits


# A trained captioner's nucleus has tens of tokens; so many are sorted before the whole vocabulary is (10x
# dearer).
_LEADING = 1024


def _nucleus_floor(probs: Tensor, top_p: float) -> Tensor:
    """The probability [M, 1] of the least probable token of each row's nucleus."""
    if probs.is_cuda or probs.shape[-1] <= _LEADING:  # to look at the leading mass would wait for the GPU
        return _floor_of_sorted(probs.sort(dim=-1, descending=True).values, top_p)
    leading = probs.topk(_LEADING, dim=-1).values
    if bool((leading.sum(-1) < top_p).any()):
        leading = probs.sort(dim=-1, descending=True).values
    return _floor_of_sorted(leading, top_p)


def _floor_of_sorted(descending: Tensor, top_p: float) -> Tensor:
    mass_before = descending.cumsum(-1) - descending
    last_kept = (mass_before < top_p).sum(-1, keepdim=True).clamp(min=1) - 1
    return descending.gather(-1, last_kept)


def apply_repetition_penalty(
    logits: Tensor, ids: Tensor, penalty: float, mask: Tensor | None = None
) -> Tensor:
    """Logits [M, V], those of the tokens in `ids` [M, T] divided by the penalty if positive, else times it.

    A token that occurs twice is penalised once. Positions where `mask` [M, T] is 0 do not count.
    """
    if penalty == 1 or ids.shape[-1] == 0:
        return logits
    counted = torch.ones_like(ids) if mask is None else mask
    seen = torch.zeros_like(logits).scatter_add_(-1, ids, counted.to(logits.dtype)) > 0
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
