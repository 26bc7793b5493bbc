"""Filters and penalties on logits, as pure functions.

Nucleus sampling: Holtzman et al. 2020 (arXiv 1904.09751). Repetition penalty: Keskar et al. 2019
(arXiv 1909.05858).

Shapes: M sequences, V vocabulary, T earlier tokens.
"""

import torch
from torch import Tensor

# The nucleus of a trained captioner has tens of tokens. Selecting this many instead of sorting the vocabulary
# is many times faster. Where the nucleus is larger, as for an untrained captioner, more are selected.
PREFIX = 256
GROWTH = 16


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Divide logits [M, V] by the temperature, then set all but the top_k tokens, then all but the nucleus,
    to -inf.

    The nucleus is the smallest set of most probable tokens whose probabilities sum to at least `top_p`.
    Tokens that tie with the least probable token of the nucleus are kept too, so that the result does not
    depend on the sorting order; ties are frequent in bfloat16.
    """
    logits = _keep_top_k(logits / temperature, top_k)
    return _keep_nucleus(logits, logits.softmax(-1), top_p)


def filter_candidates(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`filter_logits` of the most probable tokens only, as many as may be kept.

    Returns:
        Filtered logits [M, C], -inf where a token is not kept, and the tokens [M, C], ascending. No other
        token of the vocabulary is kept.
    """
    logits = _keep_top_k(logits / temperature, top_k)
    probs, vocabulary, count = logits.softmax(-1), logits.shape[-1], PREFIX
    # On a GPU, checking whether the selected tokens suffice would wait for the device.
    selects = (top_k > 0 or top_p < 1) and not logits.is_cuda
    while selects and count < vocabulary:
        highest, tokens = probs.topk(count, dim=-1)
        kept = highest >= _nucleus_threshold(highest, top_p) if top_p < 1 else highest > 0
        if not bool(kept[:, -1].any()):  # otherwise further tokens may be kept, or tie with the last one
            tokens, order = tokens.sort(dim=-1)
            return logits.gather(-1, tokens).masked_fill(~kept.gather(-1, order), -torch.inf), tokens
        count *= GROWTH
    return _keep_nucleus(logits, probs, top_p), torch.arange(vocabulary, device=logits.device).expand_as(
        logits
    )


def apply_repetition_penalty(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Penalize the tokens `ids` [M, T] in logits [M, V]: divide positive logits by the penalty, multiply
    negative ones.

    A token that occurs several times is penalized once.
    """
    if penalty == 1 or ids.shape[-1] == 0:
        return logits
    occurs = torch.zeros_like(logits).scatter_(-1, ids, 1.0) > 0
    return torch.where(occurs, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    if not 0 < top_k < logits.shape[-1]:
        return logits
    smallest = logits.topk(top_k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def _keep_nucleus(logits: Tensor, probs: Tensor, top_p: float) -> Tensor:
    if top_p == 1:
        return logits
    descending = probs.sort(dim=-1, descending=True).values
    return logits.masked_fill(probs < _nucleus_threshold(descending, top_p), -torch.inf)


def _nucleus_threshold(descending: Tensor, top_p: float) -> Tensor:
    """The probability [M, 1] of the least probable token of each row's nucleus, of descending ones."""
    mass_before = descending.cumsum(-1) - descending
    last_kept = (mass_before < top_p).sum(-1, keepdim=True).clamp(min=1) - 1
    return descending.gather(-1, last_kept)
