"""The math of ITC and of ITM's hard negatives, as functions of similarities and ids.

Shape suffixes: B queries (images or texts) in rows, C candidates of the other modality in columns, both in
the order of their pairs, E embedding dimension.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.keyed_random import sample_categorical, uniform


class Pairs(NamedTuple):
    """Image-text pairs as inputs of ITC: normalized features, and ids of image and text."""

    image_BE: Tensor
    text_BE: Tensor
    image_ids_B: Tensor
    """int64; equal for equal images."""
    text_ids_B: Tensor
    """int64; equal for equal texts."""


def find_positives(own: Pairs, candidates: Pairs, offset: int, rule: Literal["ids", "pairs"]) -> Tensor:
    """The positives of each own pair among the candidates: bool [B, C], the same for both directions.

    Own pair i is candidate `offset + i`, and always a positive. With rule "ids", candidates with the same
    image or the same text are positives too.
    """
    rows, columns = len(own.image_ids_B), len(candidates.image_ids_B)
    device = own.image_ids_B.device
    is_itself = torch.arange(rows, device=device)[:, None] + offset == torch.arange(columns, device=device)
    if rule == "pairs":
        return is_itself
    same_image = own.image_ids_B[:, None] == candidates.image_ids_B
    same_text = own.text_ids_B[:, None] == candidates.text_ids_B
    return is_itself | same_image | same_text


def alpha_ramp(epoch: float, epochs: float) -> float:
    """The factor of `alpha`, which rises linearly from 0 to 1 during the first `epochs` epochs."""
    return 1.0 if epoch >= epochs else epoch / epochs


def contrast_targets(positive_BC: Tensor, teacher_logits_BC: Tensor | None, alpha: float) -> Tensor:
    """The target distribution of each row, [B, C]: hard labels mixed with the teacher's soft labels.

    (1 - alpha) * positives / number of positives + alpha * softmax(teacher logits). This is equation 6 of
    ALBEF (arXiv 2107.07651), with several positives per row as in the reference's retrieval finetuning.
    """
    hard = positive_BC.float()
    hard = hard / hard.sum(dim=1, keepdim=True)
    if teacher_logits_BC is None or alpha == 0:
        return hard
    return alpha * teacher_logits_BC.softmax(dim=1) + (1 - alpha) * hard


def contrastive_loss(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Cross-entropy of each row with its target distribution, averaged over rows."""
    return F.cross_entropy(logits_BC, targets_BC)


def negative_weights(logits_BC: Tensor, positive_BC: Tensor, floor: float) -> Tensor:
    """Sampling weights [B, C] of the negatives of each row: the softmax of the similarities over
    non-positives.

    `floor` is added to the weight of every non-positive. A row without negatives has only zeros.
    """
    masked = logits_BC.masked_fill(positive_BC, -torch.inf)
    # Not torch's softmax, which gives NaN for a row of -inf.
    largest = masked.amax(dim=1, keepdim=True).clamp(min=torch.finfo(masked.dtype).min)
    weights = (masked - largest).exp()
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=torch.finfo(masked.dtype).tiny)
    return (weights + floor).masked_fill(positive_BC, 0.0)


def draw_negatives(weights_BC: Tensor, seeds_B: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Draw one column per row by weight; the draw depends only on seed and step.

    Returns:
        (column int64 [B], valid bool [B]). For a row of zeros the column is arbitrary and valid is False.
    """
    columns = sample_categorical(weights_BC, uniform(seeds_B, step))
    return columns.clamp(max=weights_BC.shape[1] - 1), weights_BC.sum(dim=1) > 0
