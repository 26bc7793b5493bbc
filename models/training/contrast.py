"""The arithmetic of ITC and of ITM's hard negatives, as functions of similarities and ids.

Shape suffixes: B rows (images or texts that ask), C columns (texts or images that answer), in the order of
the pairs they belong to.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.keyed_random import pick, uniform


class Pairs(NamedTuple):
    """Image-text pairs as ITC sees them: features on the unit sphere, and what identifies each half."""

    image_BE: Tensor
    text_BE: Tensor
    image_ids_B: Tensor
    """int64; equal for the same image."""
    text_ids_B: Tensor
    """int64; equal for the same words."""


def find_positives(own: Pairs, candidates: Pairs, offset: int, rule: Literal["ids", "pairs"]) -> Tensor:
    """Which candidate pairs belong to which own pair: bool [B, C], read in both directions alike.

    Own pair i is candidate `offset + i`. Rule "ids" adds every candidate with the same image or the same
    text, "pairs" adds none.
    """
    rows, columns = len(own.image_ids_B), len(candidates.image_ids_B)
    device = own.image_ids_B.device
    itself = torch.arange(rows, device=device)[:, None] + offset == torch.arange(columns, device=device)
    if rule == "pairs":
        return itself
    same_image = own.image_ids_B[:, None] == candidates.image_ids_B
    same_text = own.text_ids_B[:, None] == candidates.text_ids_B
    return itself | same_image | same_text


def ramp(epoch: float, epochs: float) -> float:
    """Factor of `alpha`: rises linearly from 0 to 1 over the first `epochs` epochs."""
    return 1.0 if epoch >= epochs else epoch / epochs


def contrast_targets(positive_BC: Tensor, teacher_logits_BC: Tensor | None, alpha: float) -> Tensor:
    """The distribution each row should have, [B, C]: evenly over its positives, softened by the teacher's.

    (1 - alpha) * positives / their number + alpha * softmax(teacher logits); ALBEF (arXiv 2107.07651)
    equation 6, with several positives per row as in the reference's retrieval finetuning.
    """
    hard = positive_BC.float()
    hard = hard / hard.sum(dim=1, keepdim=True)
    if teacher_logits_BC is None or alpha == 0:
        return hard
    return alpha * teacher_logits_BC.softmax(dim=1) + (1 - alpha) * hard


def contrast(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Cross-entropy of each row against its target distribution, mean over rows."""
    return F.cross_entropy(logits_BC, targets_BC)


def negative_weights(logits_BC: Tensor, positive_BC: Tensor, floor: float) -> Tensor:
    """How likely each column is to be drawn as a row's negative: softmax of similarity over non-positives.

    A row without any negative is all zero. `floor` is added to every other weight.
    """
    masked = logits_BC.masked_fill(positive_BC, -torch.inf)
    # The largest finite entry is taken out by hand: softmax of a row of -inf would be NaN.
    top = masked.amax(dim=1, keepdim=True).clamp(min=torch.finfo(masked.dtype).min)
    weights = (masked - top).exp()
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(masked.dtype).tiny)
    return (weights + floor).masked_fill(positive_BC, 0.0)


def draw_negatives(weights_BC: Tensor, seeds_B: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """One column per row, drawn by weight with a number that depends on (seed, step) alone.

    Returns:
        (column int64 [B], valid bool [B]); a row of zero weights gets some column and valid False.
    """
    columns = pick(weights_BC, uniform(seeds_B, step))
    return columns.clamp(max=weights_BC.shape[1] - 1), weights_BC.sum(dim=1) > 0
