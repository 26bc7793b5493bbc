"""MED against the BLIP of transformers with the same random weights: the numbers of every mode, within 1e-5.

The config is that of BLIP's training: 12 text heads at base size, vision epsilon 1e-6. Matching in
transformers never has [ENC] at position 0; here that depends on the ids passed to both.
"""

import pytest
import torch
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
)

from capfilt.models.checkpoints.huggingface import from_hf
from capfilt.models.checkpoints.tensors import complete_ties, fill_model
from capfilt.models.network.med import MED, Questions
from tests.models.blip_oracle import hf_config, tiny_tokenizer, vqa_config

TOKENIZER = tiny_tokenizer()
CLOSE = {"atol": 1e-5, "rtol": 0}
TEXTS = ["a red dog on a blue car", "two birds"]


def base_config(pixels: int) -> BlipConfig:
    """BLIP base, with the values of BLIP where the defaults of transformers differ."""
    text = {"num_attention_heads": 12, "vocab_size": 30524, "encoder_hidden_size": 768}
    vision = {"image_size": pixels, "layer_norm_eps": 1e-6, "initializer_range": 0.02}
    return BlipConfig(text_config=text, vision_config=vision)


def case(name: str) -> tuple[BlipConfig, float]:
    """Config and standard deviation of the noise on the weights: "tiny", or base with this image size."""
    return (hf_config(TOKENIZER), 0.2) if name == "tiny" else (base_config(int(name)), 0.0)


def randomize(model, noise: float = 0.2):
    """Add noise to the parameters, so that biases, norms, images and tokens matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = noise if parameter.dim() > 1 else 0.1
            if scale:
                parameter.add_(torch.empty_like(parameter).normal_(generator=generator), alpha=scale)
    return model.eval()


def med_of(hf) -> MED:
    weights = from_hf(hf.state_dict(), {}, hf.config.to_dict(), "transformers")
    with torch.device("meta"):
        med = MED(weights.config)
    fill_model(med, complete_ties(med, weights.tensors), "transformers")
    return med.eval()


def pixels_for(med, images):
    size = med.config.vision.image_size
    return torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["tiny", "224", pytest.param("384", marks=pytest.mark.long)])
def captioners(request):
    config, noise = case(request.param)
    hf = randomize(BlipForConditionalGeneration(config), noise)
    return hf, med_of(hf)


@pytest.fixture(scope="module", params=["tiny", "224", pytest.param("384", marks=pytest.mark.long)])
def matchers(request):
    config, noise = case(request.param)
    hf = randomize(BlipForImageTextRetrieval(config), noise)
    return hf, med_of(hf)


@torch.no_grad()
def test_caption_logits(captioners):
    hf, med = captioners
    pixels = pixels_for(med, 2)
    ids, mask = TOKENIZER.encode(TEXTS, 20, first="dec")
    theirs = hf(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    states = med.encode_image(pixels)
    torch.testing.assert_close(states, theirs.image_embeds, **CLOSE)
    kv = med.cross_kv(states, "decoder")
    for ours in (med.decode(ids, kv, mask=mask), med.decode(ids, kv)):
        torch.testing.assert_close(ours[mask.bool()], theirs.logits[mask.bool()], **CLOSE)
    assert theirs.logits.std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("first", ["cls", "enc"])
def test_matching_logits(matchers, first):
    hf, med = matchers
    pixels = pixels_for(med, 2)
    ids, mask = TOKENIZER.encode(TEXTS, 20, first=first)
    theirs = hf(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    states = med.encode_image(pixels)
    torch.testing.assert_close(states, theirs.last_hidden_state, **CLOSE)
    kv = med.cross_kv(states, "encoder")
    torch.testing.assert_close(med.encode_text(ids, mask, kv)[:, 0], theirs.question_embeds[:, 0], **CLOSE)
    torch.testing.assert_close(med.match(ids, mask, kv), theirs.itm_score, **CLOSE)


@torch.no_grad()
def test_similarities(matchers):
    hf, med = matchers
    pixels = pixels_for(med, 2)
    ids, mask = TOKENIZER.encode(TEXTS, 20)
    theirs = hf(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_itm_head=False)
    ours = med.image_feature(med.encode_image(pixels)) @ med.text_feature(ids, mask).T
    torch.testing.assert_close(ours, theirs.itm_score, **CLOSE)


@torch.no_grad()
def test_the_first_token_matters_for_matching():
    """So [ENC] cannot be replaced by [CLS]."""
    med = med_of(randomize(BlipForImageTextRetrieval(hf_config(TOKENIZER))))
    kv = med.cross_kv(med.encode_image(pixels_for(med, 2)), "encoder")
    scores = {first: med.match(*TOKENIZER.encode(TEXTS, 20, first=first), kv) for first in ("cls", "enc")}
    assert (scores["cls"] - scores["enc"]).abs().max() > 1e-3


@torch.no_grad()
def test_answer_logits_of_questions_of_unequal_lengths():
    """The question is encoded with the image, and the answer is decoded from its states, by separate weights.

    transformers 5.23 does not pass the question's mask to cross-attention. Therefore the expected logits are
    those of each question by itself, without padding.
    """
    hf = randomize(BlipForQuestionAnswering(vqa_config(TOKENIZER)))
    med = med_of(hf)
    pixels, questions = pixels_for(med, 2), ["on a red car near a tree", "a cat"]
    ids, question_mask = TOKENIZER.encode(questions, 20, first="enc")
    answer, mask = TOKENIZER.encode(["two dogs", "tree"], 8, first="dec")
    states = med.encode_text(ids, question_mask, med.cross_kv(med.encode_image(pixels), "encoder"))
    kv = med.cross_kv(states, "decoder")
    ours, with_padding = (
        med.answer(answer, Questions(kv=kv, mask_QN=question_mask), mask=mask),
        med.answer(answer, Questions(kv=kv, mask_QN=None), mask=mask),
    )
    assert not question_mask.all()
    for row, question in enumerate(questions):
        one = slice(row, row + 1)
        expected = hf_answer_logits(hf, pixels[one], question, answer[one], mask[one])
        real = mask[row].bool()
        torch.testing.assert_close(ours[row, real], expected[real], **CLOSE)
    assert (with_padding - ours)[1, mask[1].bool()].abs().max() > 1e-2


def hf_answer_logits(hf, pixels, question, answer, mask):
    """Logits [T, V] of the tokens of one answer, from a hook because transformers does not return them."""
    outputs = []
    hook = hf.text_decoder.register_forward_hook(lambda _module, _inputs, out: outputs.append(out.logits[0]))
    ids, attention_mask = TOKENIZER.encode([question], 20, first="enc")
    hf(
        pixel_values=pixels,
        input_ids=ids,
        attention_mask=attention_mask,
        decoder_input_ids=answer,
        decoder_attention_mask=mask,
    )
    hook.remove()
    return outputs[0]
