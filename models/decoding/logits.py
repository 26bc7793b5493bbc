"""From logits to a token: filters, penalties, and draws keyed by row instead of taken from a generator.

Shapes: M sequences, V vocabulary, T earlier tokens. Every function is pure and runs where its tensors lie.
Sources: nucleus sampling, Holtzman et al. 2020 (arXiv 1904.09751); the repetition penalty, Keskar et al. 2019
(arXiv 1909.05858); the counter-based generator, SplitMix64, Steele et al. 2014.
"""

import torch
from torch import Tensor

# ---- keyed draws


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
