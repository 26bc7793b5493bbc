"""Question answering: encoder and decoder of different width, question padding, answers equal to
transformers.

The logits are compared with transformers in test_parity.py.
"""

import pytest
import torch

from capfilt.models.checkpoints.pretrained_start import load_text_start
from capfilt.models.config import ObjectiveConfig
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.decoding.generate import generate
from capfilt.models.decoding.state import GenerationRequest, Prompt
from capfilt.models.images.pixels import normalize
from capfilt.models.network.attention import DecoderCache
from capfilt.models.network.med import Questions
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.matcher import Matcher
from capfilt.models.training.objectives import Objective
from tests.models.blip_oracle import hf_answerer, med_of, random_pixels
from tests.models.tiny_med import TOKENIZER, build

QUESTIONS = ["a dog on the red car near a large tree", "cat", "two birds in the boat"]
PROMPT = Prompt(ids=torch.tensor([TOKENIZER.dec_id]), end_id=TOKENIZER.sep_id, pad_id=TOKENIZER.pad_id)
# salesforce/BLIP models/blip_vqa.py: 3 beams, 1 to 10 tokens, of which [DEC] is one.
BEAMS = SamplingConfig(strategy="beam", num_beams=3, min_new_tokens=0, max_new_tokens=9)
REQUEST = GenerationRequest(prompt=PROMPT, sampling=BEAMS)


@pytest.fixture(scope="module")
def med():
    return build(parts="vqa").eval()


def encode_questions(med, questions, pixels):
    """States [Q, T, D] and mask [Q, T] of questions, each about its own image."""
    ids, mask = TOKENIZER.encode(questions, 20, first="enc")
    with torch.no_grad():
        return med.encode_text(ids, mask, med.cross_kv(med.encode_image(pixels), "encoder")), mask


def test_encoder_and_decoder_share_nothing_and_the_decoder_attends_to_questions(med):
    encoder = {id(p) for p in med.text_encoder.parameters()}
    assert not encoder & {id(p) for p in med.text_decoder.parameters()}
    words = med.text_decoder.bert.embeddings.word_embeddings.weight
    assert med.text_decoder.head.decoder.weight is words
    widths = {
        name: layers[0].crossattention.self.key.in_features
        for name, layers in (("image", med.text_encoder.layers), ("question", med.text_decoder.bert.layers))
    }
    assert widths == {"image": 24, "question": 32}  # different, like 1024 of ViT-L and 768 of BERT
    assert not med.shares_cross_kv and not hasattr(med, "itm_head") and not hasattr(med, "temp")


# In order, several answers, permuted, questions without answers, all on one question; the last one is
# gathered.
INDEXES = [[0, 1, 2], [0, 0, 1, 1, 2, 2], [2, 0, 1, 0], [1], [1, 1, 1, 1, 1], [7]]


@torch.no_grad()
@pytest.mark.parametrize("index", INDEXES, ids=str)
def test_question_padding_does_not_change_answers_in_any_layout(med, index):
    questions = QUESTIONS * (1 if max(index) < 3 else 4)
    pixels, index = torch.randn(len(questions), 3, 32, 32), torch.tensor(index)
    states, mask = encode_questions(med, questions, pixels)
    answers, _ = TOKENIZER.encode(["two red dogs"] * len(index), 8, first="dec")
    together = med.answer(answers, Questions(kv=med.cross_kv(states, "decoder"), mask_QN=mask), index)
    for row, question in enumerate(index.tolist()):
        single, _ = encode_questions(med, questions[question : question + 1], pixels[question : question + 1])
        expected = med.answer(answers[:1], Questions(kv=med.cross_kv(single, "decoder"), mask_QN=None))
        torch.testing.assert_close(together[row], expected[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoding_answers_in_steps_equals_decoding_at_once(med):
    states, mask = encode_questions(med, QUESTIONS, torch.randn(3, 3, 32, 32))
    encoded, cache = Questions(kv=med.cross_kv(states, "decoder"), mask_QN=mask), DecoderCache(8)
    answers, _ = TOKENIZER.encode(["two red dogs"] * 3, 8, first="dec")
    steps = [med.answer(answers[:, i : i + 1], encoded, cache=cache) for i in range(answers.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 1), med.answer(answers, encoded), atol=1e-5, rtol=1e-5)


# Answers end at the first and at the last token, so finished questions leave the batch while others continue.
@pytest.mark.parametrize(("seed", "ends"), [(1, 4.0), (4, 3.0)])
def test_generated_answers_equal_those_of_transformers_to_single_questions(seed, ends):
    hf = hf_answerer(TOKENIZER, seed=seed, ends=ends)
    questions = QUESTIONS * 4
    med, pixels = med_of(hf), normalize(random_pixels(len(questions)))
    states, mask = encode_questions(med, questions, pixels)
    ours = generate(med, states, REQUEST, mask=mask).ids[:, 0].tolist()
    for row, question in enumerate(questions):
        ids, _ = TOKENIZER.encode([question], 20, first="enc")
        expected = hf.generate(
            input_ids=ids, pixel_values=pixels[row : row + 1], num_beams=3, max_length=10, min_length=1
        )[0, 1:].tolist()
        assert ours[row][: len(expected)] == expected and not any(ours[row][len(expected) :])
    lengths = [sum(token != PROMPT.pad_id for token in row) for row in ours]
    assert min(lengths) == 1 and max(lengths) == 9


def test_unsupported_calls_are_rejected_with_one_line(med, tmp_path):
    ids, states = torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, 32)
    for call in (
        lambda: med.match(ids, None, []),
        lambda: med.text_feature(ids),
        lambda: med.image_feature(states),
        lambda: med.judge_pair(ids, None, []),
        lambda: med.pair_kv(states, states),
    ):
        with pytest.raises(ValueError, match=r'needs parts "[^\n]*but this model is a "vqa"$'):
            call()
    with pytest.raises(ValueError, match='answer needs parts "vqa", but this model is a "captioner"'):
        build(parts="captioner").answer(ids, Questions(kv=[], mask_QN=None))
    with pytest.raises(ValueError, match="cannot generate answers without the questions' mask"):
        generate(med, states, REQUEST)
    with pytest.raises(ValueError, match=r'"vqa".*no text encoder with the heads'):
        Matcher(med, TOKENIZER)
    with pytest.raises(ValueError, match=r'"vqa".*no decoder for captions'):
        Captioner(med, TOKENIZER)
    with pytest.raises(ValueError, match='losses lm cannot train a "vqa"'):
        Objective(med, TOKENIZER, ObjectiveConfig(losses=("lm",)))
    with pytest.raises(ValueError, match='a "vqa" starts from a pretrained MED'):
        load_text_start(med, tmp_path)
