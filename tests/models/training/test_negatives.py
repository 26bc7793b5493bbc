"""ITM's negatives: never with the same image or text, drawn in proportion to similarity, reproducible."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch

from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.training.contrast import draw_negatives, negative_weights
from capfilt.models.training.objectives import Objective
from tests.models.training.objective_cases import (
    IMAGE_IDS,
    TEXTS,
    MatchSpy,
    in_batch,
    loop_cross_entropy,
    make_batch,
    make_med,
    make_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture
def med(tokenizer: Tokenizer) -> MED:
    return make_med(tokenizer)


def drawn_pairs(
    med: MED, tokenizer: Tokenizer, batch: dict, steps: int, **changes: object
) -> Iterator[tuple]:
    """(row, image, text) of every negative drawn in `steps` steps; text is None where the image was drawn."""
    objective = Objective(med, tokenizer, in_batch(losses=("itm",), **changes)).train()
    spy = MatchSpy(med)
    count = len(batch["texts"])
    for _ in range(steps):
        objective(batch)
    for ids, mask, image_index in spy.calls:
        texts = tokenizer.decode_batch([row[keep.bool()] for row, keep in zip(ids, mask, strict=True)])
        for row in range(count):
            yield row, int(image_index[count + row]), None
            yield row, None, texts[2 * count + row]


def test_negatives_never_have_the_same_image_or_the_same_text(med: MED, tokenizer: Tokenizer) -> None:
    seen = set()
    for row, image, text in drawn_pairs(med, tokenizer, make_batch(), steps=60):
        if text is None:
            assert image != row
            assert IMAGE_IDS[image] != IMAGE_IDS[row]
            assert TEXTS[image] != TEXTS[row]
        else:
            assert text != TEXTS[row]
            assert IMAGE_IDS[TEXTS.index(text)] != IMAGE_IDS[row]
        seen.add((row, image, text))
    assert len(seen) > 20  # they vary


def test_the_rule_of_the_reference_excludes_only_the_pair_itself(med: MED, tokenizer: Tokenizer) -> None:
    rows = list(drawn_pairs(med, tokenizer, make_batch(), 200, positives="pairs", negative_floor=0.2))
    assert all(image != row for row, image, text in rows if text is None)
    assert any(TEXTS[row] == text for row, _, text in rows)  # the third pair has the text of the first


def test_negatives_are_drawn_in_proportion_to_similarity() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0, 3.0]])
    positive = torch.tensor([[False, False, False, False, True]])
    weights = negative_weights(logits, positive, 0.0)
    expected = torch.tensor([math.e**0, math.e**2, math.e**1, math.e**-1, 0.0])
    expected /= expected.sum()
    torch.testing.assert_close(weights[0], expected)
    torch.testing.assert_close(
        negative_weights(logits, positive, 0.25)[0], (expected + 0.25) * torch.tensor([1, 1, 1, 1, 0])
    )
    draws = 20000
    drawn, valid = draw_negatives(weights.expand(draws, -1), torch.arange(draws), step=3)
    counts = torch.bincount(drawn, minlength=5).double()
    assert valid.all()
    assert counts[4] == 0
    chi_square = ((counts - draws * expected) ** 2 / (draws * expected).clamp(min=1e-9))[:4].sum()
    assert chi_square < 16.3  # p = 0.1 % with three degrees of freedom


def test_weights_do_not_underflow_for_very_different_similarities() -> None:
    logits = torch.tensor([[1000.0, -1000.0, -1001.0]])
    weights = negative_weights(logits, torch.tensor([[True, False, False]]), 0.0)
    torch.testing.assert_close(weights[0], torch.tensor([0.0, 0.7310586, 0.2689414]))


def test_a_batch_without_negatives_trains_on_its_positive_pairs(med: MED, tokenizer: Tokenizer) -> None:
    batch = make_batch(("a cat",) * 4, (1, 2, 3, 4))
    config = in_batch(losses=("itc", "itm"))
    got = Objective(med, tokenizer, config)(batch)
    got["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in med.parameters() if p.grad is not None)
    with torch.no_grad():
        kv = med.cross_kv(med.encode_image(normalize(batch["pixels"])), "encoder")
        ids, mask = tokenizer.encode(batch["texts"], 30, first="enc")
        logits = med.match(ids, mask, kv).double().tolist()
    expected = sum(loop_cross_entropy(row, 1) for row in logits) / 4
    assert got["itm"].item() == pytest.approx(expected, rel=2e-5, abs=2e-5)


def test_draws_depend_on_seed_and_step_but_not_on_torchs_generator(med: MED, tokenizer: Tokenizer) -> None:
    def losses(seed: int, torch_seed: int) -> list[float]:
        objective = Objective(copy.deepcopy(med), tokenizer, in_batch(losses=("itm",)), seed=seed).train()
        torch.manual_seed(torch_seed)
        return [objective(make_batch())["itm"].item() for _ in range(6)]

    assert losses(1, 0) == losses(1, 99)
    assert losses(1, 0) != losses(2, 0)
    assert len(set(losses(1, 0))) > 1
