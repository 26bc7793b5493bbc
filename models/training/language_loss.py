"""The loss of language modeling, without the logits of all tokens in memory at a time.

Shape suffixes: P predicted tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, cat
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 1024
"""Tokens whose logits are in memory at a time: with 30,524 words 125 MB in float32."""


def token_losses(
    head: Callable[[Tensor], Tensor], states_PD: Tensor, targets_P: Tensor, label_smoothing: float
) -> Tensor:
    """The negative log-likelihood of each token, in float32, with label smoothing; [P].

    Of more than `CHUNK` tokens the logits are computed again in the backward pass, which costs a third more
    of the vocabulary projection and changes no result.

    Args:
        head: vocabulary logits of decoder states, without dropout.
        states_PD: decoder states of the predicted tokens.
        targets_P: the tokens.
        label_smoothing: as in `cross_entropy`.
    """
    losses = partial(_losses, head, label_smoothing)
    if len(targets_P) <= CHUNK:
        return losses(states_PD, targets_P)
    chunks = zip(states_PD.split(CHUNK), targets_P.split(CHUNK), strict=True)
    return cat(
        [checkpoint(losses, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    )


def _losses(
    head: Callable[[Tensor], Tensor], label_smoothing: float, states_PD: Tensor, targets_P: Tensor
) -> Tensor:
    logits_PV = head(states_PD).float()
    return F.cross_entropy(logits_PV, targets_P, reduction="none", label_smoothing=label_smoothing)
