"""Filters and penalties on logits, as pure functions.

Nucleus sampling: Holtzman et al. 2020 (arXiv 1904.09751). Repetition penalty: Keskar et al. 2019
(arXiv 1909.05858).

Shapes: M sequences, V vocabulary, T earlier tokens.
"""

import torch
from torch import Tensor

# The nucleus of a trained captioner has tens of tokens. Sorting this many instead of the whole vocabulary is
# 10 times faster.
SORTED_PREFIX = 1024


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Divide logits [M, V] by the temperature, then set all but the top_k tokens, then all but the nucleus,
    to -inf.

    The nucleus is the smallest set of most probable tokens whose probabilities sum to at least `top_p`.
    Tokens that tie with the least probable token of the nucleus are kept too, so that the result does not
    depend on the sorting order; ties are frequent in bfloat16.
    """
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if top_p < 1:
        probs = logits.softmax(-1)
        logits = logits.masked_fill(probs < _nucleus_threshold(probs, top_p), -torch.inf)
    return logits


def apply_repetition_penalty(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Penalize the tokens `ids` [M, T] in logits [M, V]: divide positive logits by the penalty, multiply
    negative ones.

    A token that occurs several times is penalized once.
    """
    if penalty == 1 or ids.shape[-1] == 0:
        return logits
    occurs = torch.zeros_like(logits).scatter_(-1, ids, 1.0) > 0
    return torch.where(occurs, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _nucleus_threshold(probs: Tensor, top_p: float) -> Tensor:
    """The probability [M, 1] of the least probable token of each row's nucleus."""
    # On a GPU, checking whether the prefix suffices would wait for the device.
    if probs.is_cuda or probs.shape[-1] <= SORTED_PREFIX:
        return _threshold_of_sorted(probs.sort(dim=-1, descending=True).values, top_p)
    prefix = probs.topk(SORTED_PREFIX, dim=-1).values
    if bool((prefix.sum(-1) < top_p).any()):
        prefix = probs.sort(dim=-1, descending=True).values
    return _threshold_of_sorted(prefix, top_p)


def _threshold_of_sorted(descending: Tensor, top_p: float) -> Tensor:
    mass_before = descending.cumsum(-1) - descending
    last_kept = (mass_before < top_p).sum(-1, keepdim=True).clamp(min=1) - 1
    return descending.gather(-1, last_kept)
