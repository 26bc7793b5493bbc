"""Answers by ranking and by generation, against a computation for each question and candidate alone."""

import pytest
import torch

from capfilt.models.network.med import Questions
from capfilt.models.tasks import answerer as module
from capfilt.models.tasks.answerer import Answerer
from capfilt.models.tasks.options import AnswererOptions
from tests.models.blip_oracle import hf_answerer, med_of, random_pixels
from tests.models.tiny_med import TOKENIZER, build

QUESTIONS = ["a dog on the red car near a large tree", "cat", "two birds in the boat", "red house"]
CANDIDATES = ["red", "blue", "two dogs", "a red car", "red car", "boat", "tree on the house"]


def likelihoods(med, pixels, question):
    """The log-likelihood of each candidate, one at a time and without padding."""
    from capfilt.models.images.pixels import normalize

    ids, mask = TOKENIZER.encode([question], 20, first="enc")
    kv = med.cross_kv(med.encode_image(normalize(pixels[None])), "encoder")
    states = Questions(kv=med.cross_kv(med.encode_text(ids, mask, kv), "decoder"), mask_QN=None)
    found = []
    for candidate in CANDIDATES:
        tokens, _ = TOKENIZER.encode([candidate], 20, first="dec")
        logprobs = med.answer(tokens[:, :-1], states).log_softmax(-1)
        found.append(float(logprobs.gather(2, tokens[:, 1:, None]).sum()))
    return found


@torch.no_grad()
@pytest.mark.parametrize("passes", [3, 256])
def test_ranking_all_candidates_finds_the_most_probable_one(passes, monkeypatch):
    monkeypatch.setattr(module, "SEQUENCES_PER_PASS", passes)
    med, pixels = build(parts="vqa").eval(), random_pixels(4)
    ranked = Answerer(med, TOKENIZER, AnswererOptions(batch_size=3), device="cpu").rank(
        pixels, QUESTIONS, CANDIDATES
    )
    for answer, question, image in zip(ranked, QUESTIONS, pixels, strict=True):
        expected = likelihoods(med, image, question)
        best = max(range(len(CANDIDATES)), key=expected.__getitem__)
        assert answer.text == CANDIDATES[best]
        assert answer.logprob == pytest.approx(expected[best], abs=1e-4)


@torch.no_grad()
def test_only_candidates_with_a_probable_first_token_are_compared():
    med, pixels = build(parts="vqa").eval(), random_pixels(4)
    first = {TOKENIZER.encode([c], 20, first="dec")[0][0, 1].item() for c in CANDIDATES}
    assert len(first) < len(CANDIDATES), "two candidates begin alike"
    with_k = Answerer(med, TOKENIZER, AnswererOptions(k=1), device="cpu").rank(pixels, QUESTIONS, CANDIDATES)
    everything = Answerer(med, TOKENIZER, device="cpu").rank(pixels, QUESTIONS, CANDIDATES)
    for one, best in zip(with_k, everything, strict=True):
        assert one.logprob <= best.logprob + 1e-6
    assert {one.text for one in with_k} <= {
        "red",
        "blue",
        "two dogs",
        "a red car",
        "boat",
        "tree on the house",
    }


@torch.no_grad()
def test_free_answers_equal_those_of_transformers():
    hf = hf_answerer(TOKENIZER, seed=1, ends=4.0)
    pixels = random_pixels(4)
    answers = Answerer(med_of(hf), TOKENIZER, device="cpu").answer(pixels, QUESTIONS)
    from capfilt.models.images.pixels import normalize

    for row, question in enumerate(QUESTIONS):
        ids, _ = TOKENIZER.encode([question], 20, first="enc")
        expected = hf.generate(
            input_ids=ids, pixel_values=normalize(pixels[row : row + 1]), num_beams=3, max_length=10,
            min_length=1,
        )[0]  # fmt: skip
        assert answers[row].text == TOKENIZER.decode(expected)


def test_wrong_uses_are_one_line():
    med = build(parts="vqa").eval()
    with pytest.raises(ValueError, match='"captioner" and does not answer questions: use a "vqa"'):
        Answerer(build(parts="captioner"), TOKENIZER)
    with pytest.raises(ValueError, match="1 images but 2 questions"):
        Answerer(med, TOKENIZER, device="cpu").answer(random_pixels(1), ["a", "b"])
    with pytest.raises(ValueError, match="no answers to rank"):
        Answerer(med, TOKENIZER, device="cpu").rank(random_pixels(1), ["a"], [])
