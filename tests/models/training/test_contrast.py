"""ITC targets, positives and the ramp of alpha against values by hand."""

import pytest
import torch

from capfilt.models.training.contrast import (
    Pairs,
    alpha_ramp,
    contrast_targets,
    contrastive_loss,
    draw_negatives,
    find_positives,
    negative_weights,
)


@pytest.mark.parametrize(
    ("epoch", "epochs", "factor"),
    [
        (0.0, 2.0, 0.0),
        (0.5, 2.0, 0.25),
        (1.99, 2.0, 0.995),
        (2.0, 2.0, 1.0),
        (9.0, 2.0, 1.0),
        (0.0, 0.0, 1.0),
    ],
)
def test_alpha_rises_linearly_to_1(epoch: float, epochs: float, factor: float) -> None:
    assert alpha_ramp(epoch, epochs) == pytest.approx(factor)


POSITIVE = torch.tensor([[True, False, True], [False, True, False]])
TEACHER = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])


@pytest.mark.parametrize(("teacher", "alpha"), [(None, 0.4), (None, 0.0), (TEACHER, 0.0)])
def test_targets_without_teacher_or_alpha_are_the_hard_labels(
    teacher: torch.Tensor | None, alpha: float
) -> None:
    assert contrast_targets(POSITIVE, teacher, alpha).tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]


def test_targets_mix_hard_and_soft_labels() -> None:
    targets = contrast_targets(POSITIVE, TEACHER, 0.25)
    torch.testing.assert_close(targets[0], torch.tensor([0.375 + 1 / 12, 1 / 12, 0.375 + 1 / 12]))
    expected = 0.25 * torch.tensor([1.0, 2.0, 3.0]).softmax(0) + 0.75 * torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(targets[1], expected)


def test_the_contrastive_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    loss = contrastive_loss(logits, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item())


def pairs(image_ids: list[int], text_ids: list[int]) -> Pairs:
    empty = torch.zeros(len(image_ids), 0)
    return Pairs(empty, empty, torch.tensor(image_ids), torch.tensor(text_ids))


def test_positives_are_the_pair_itself_the_same_image_and_the_same_text() -> None:
    own, candidates = pairs([1, 2], [10, 20]), pairs([5, 1, 2, 1, 6], [50, 10, 20, 30, 20])
    assert find_positives(own, candidates, 1, "pairs").int().tolist() == [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert find_positives(own, candidates, 1, "ids").int().tolist() == [[0, 1, 0, 1, 0], [0, 0, 1, 0, 1]]


def test_a_row_without_negatives_draws_an_invalid_column() -> None:
    weights = negative_weights(torch.zeros(2, 2), torch.tensor([[True, True], [True, False]]), 0.1)
    assert weights.tolist() == [[0.0, 0.0], [0.0, pytest.approx(1.1)]]
    columns, valid = draw_negatives(weights, torch.tensor([1, 2]), step=0)
    assert valid.tolist() == [False, True]
    assert columns[1] == 1 and 0 <= columns[0] < 2
