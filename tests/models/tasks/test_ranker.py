"""Rankings by ITC and ITM, against transformers with the same weights, pair by pair."""

import numpy as np
import pytest
import torch

from capfilt.models.caption_text import normalize_caption
from capfilt.models.images.pixels import normalize
from capfilt.models.tasks.options import MatcherOptions
from capfilt.models.tasks.ranker import Ranker, fill_templates, order
from tests.models.blip_oracle import hf_matcher, med_of, random_pixels
from tests.models.tiny_med import TOKENIZER, build

TEXTS = ["A red dog.", "the small blue cat under a tree", "two birds on the boat", "a car", "house"]
IMAGES = 4


@pytest.fixture(scope="module")
def oracle():
    """(ranker, cosines, probabilities of "matched") of all pairs, [IMAGES, texts], by transformers."""
    hf, pixels = hf_matcher(TOKENIZER, seed=2), random_pixels(IMAGES, seed=3)
    cosine, odds = (np.zeros((IMAGES, len(TEXTS))) for _ in range(2))
    with torch.no_grad():
        for column, text in enumerate(map(normalize_caption, TEXTS)):
            ids, mask = (each.expand(IMAGES, -1).clone() for each in TOKENIZER.encode([text], 35))
            given = {"pixel_values": normalize(pixels), "attention_mask": mask}
            cosine[:, column] = hf(input_ids=ids, use_itm_head=False, **given)[0][:, 0]
            ids[:, 0] = TOKENIZER.enc_id
            logits = hf(input_ids=ids, use_itm_head=True, **given)[0]
            odds[:, column] = logits[:, 1] - logits[:, 0]
    ranker = Ranker(med_of(hf), TOKENIZER, MatcherOptions(batch_size=3), device="cpu")
    return ranker, pixels, cosine, odds


def ranking(cosine, odds, k):
    """The k best by cosine in the order of ITM, then the others."""
    by_itc = sorted(range(len(cosine)), key=lambda i: -cosine[i])
    return sorted(by_itc[:k], key=lambda i: -odds[i]) + by_itc[k:]


@pytest.mark.parametrize("k", [0, 1, 3, 5, 9])
def test_texts_are_ranked_for_each_image(oracle, k):
    ranker, pixels, cosine, odds = oracle
    found = ranker.rank(pixels, ranker.encode(TEXTS), k=k)
    for row, ranked in enumerate(found):
        assert [each.index for each in ranked] == ranking(cosine[row], odds[row], k)
        for place, each in enumerate(ranked):
            assert each.itc_sim == pytest.approx(cosine[row, each.index], abs=1e-5)
            expected = 1 / (1 + np.exp(-odds[row, each.index])) if place < k else None
            assert each.itm_prob == (expected if expected is None else pytest.approx(expected, abs=1e-5))


@pytest.mark.parametrize(("k", "top"), [(0, None), (2, None), (3, 1), (1, 3), (4, 9)])
def test_images_are_ranked_for_each_text(oracle, k, top):
    ranker, pixels, cosine, odds = oracle
    found = ranker.find(pixels, ranker.encode(TEXTS), k=k, top=top)
    for column, ranked in enumerate(found):
        expected = ranking(cosine[:, column], odds[:, column], k)[:top]
        assert [each.index for each in ranked] == expected
        assert [each.itm_prob is not None for each in ranked] == [i < k for i in range(len(expected))]


def test_top_bounds_the_result_and_k_may_exceed_it(oracle):
    ranker, pixels, cosine, odds = oracle
    found = ranker.rank(pixels, ranker.encode(TEXTS), k=4, top=2)
    for row, ranked in enumerate(found):
        assert [each.index for each in ranked] == ranking(cosine[row], odds[row], 4)[:2]


def test_prompts_of_a_candidate_are_averaged(oracle):
    ranker, pixels, _, odds = oracle
    candidates = ranker.encode([TEXTS[:3], TEXTS[3:]])
    features = ranker.encode(TEXTS).features.numpy()
    means = np.stack([features[:3].mean(axis=0), features[3:].mean(axis=0)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert candidates.features.numpy() == pytest.approx(means, abs=1e-6)
    pairs = torch.ones(IMAGES, 2, dtype=torch.bool)
    expected = np.stack([odds[:, :3].mean(axis=1), odds[:, 3:].mean(axis=1)], axis=1)
    assert ranker.match(pixels, candidates, pairs).numpy() == pytest.approx(expected, abs=1e-4)


def test_only_wanted_pairs_are_matched(oracle):
    ranker, pixels, _, odds = oracle
    pairs = torch.zeros(IMAGES, len(TEXTS), dtype=torch.bool)
    pairs[1, 2] = pairs[3, 0] = True
    found = ranker.match(pixels, ranker.encode(TEXTS), pairs).numpy()
    assert np.isnan(found).sum() == found.size - 2
    assert [found[1, 2], found[3, 0]] == pytest.approx([odds[1, 2], odds[3, 0]], abs=1e-4)


def test_ties_keep_the_order_of_itc_and_then_that_of_the_items():
    cosine, odds = torch.tensor([0.5, 0.5, 0.9]), torch.tensor([1.0, 1.0, 1.0])
    assert [each.index for each in order(torch.tensor([2, 0, 1]), cosine, odds)] == [2, 0, 1]
    nothing = torch.full((3,), torch.nan)
    assert [each.index for each in order(torch.tensor([2, 0, 1]), cosine, nothing)] == [2, 0, 1]


def test_templates_are_filled_with_each_name():
    assert fill_templates(["dog", "red car"], ["a picture of {}", "the {}."]) == [
        ["a picture of dog", "the dog."],
        ["a picture of red car", "the red car."],
    ]
    with pytest.raises(ValueError, match=r"template 'a dog' has no \{\}"):
        fill_templates(["dog"], ["a dog"])


def test_a_model_without_the_heads_and_no_candidates_are_one_line(oracle):
    with pytest.raises(ValueError, match='the model is a "captioner" and has no text encoder'):
        Ranker(build(parts="captioner"), TOKENIZER, device="cpu")
    for candidates in ([], [[]]):
        with pytest.raises(ValueError, match="nothing to rank"):
            oracle[0].encode(candidates)
