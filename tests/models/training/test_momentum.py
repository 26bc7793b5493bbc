"""The queue of ITC against a Python deque."""

from collections import deque

import pytest
import torch

from capfilt.models.training.contrast import Pairs
from capfilt.models.training.momentum import PairQueue


def numbered_pairs(first: int, count: int) -> Pairs:
    numbers = torch.arange(first, first + count)
    features = numbers[:, None].float().expand(-1, 2)
    return Pairs(features, -features, numbers, numbers + 100)


@pytest.mark.parametrize("counts", [[3], [4], [5], [9], [3, 1], [3, 2], [4, 4], [2, 9, 1], [1] * 9], ids=str)
def test_the_queue_keeps_the_last_pairs(counts: list[int]) -> None:
    queue, expected, first = PairQueue(4, embed_dim=2), deque[int](maxlen=4), 0
    for count in counts:
        queue.push(numbered_pairs(first, count))
        expected.extend(range(first, first + count))
        first += count
    held = queue.read()
    assert sorted(held.image_ids_B.tolist()) == sorted(expected)
    assert torch.equal(held.text_ids_B, held.image_ids_B + 100)
    assert torch.equal(held.image_BE, held.image_ids_B[:, None].float().expand(-1, 2))
    assert torch.equal(held.text_BE, -held.image_BE)


def test_an_empty_queue_has_no_pairs() -> None:
    assert len(PairQueue(4, embed_dim=2).read().image_ids_B) == 0
