"""MED against transformers' BLIP with the same random weights: the numbers of every mode, within 1e-5.

transformers' semantics, as BLIP was trained: 12 text heads at base size, vision eps 1e-6. Its matching never puts
[ENC] at position 0, which for us is a matter of the ids given.
"""

import pytest
import torch
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
)

from models.foreign_hf import from_hf
from models.med import MED
from models.tensors import complete_ties, fill
from tests.models.blip_oracle import hf_config, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
CLOSE = {"atol": 1e-5, "rtol": 0}
TEXTS = ["a red dog on a blue car", "two birds"]


def base_config() -> BlipConfig:
    """BLIP base at 224 pixels, with the values that transformers' defaults get wrong."""
    text = {"num_attention_heads": 12, "vocab_size": 30524, "encoder_hidden_size": 768}
    vision = {"image_size": 224, "layer_norm_eps": 1e-6, "initializer_range": 0.02}
    return BlipConfig(text_config=text, vision_config=vision)


def randomised(model, noise: float = 0.2):
    """Moves the parameters, so that biases and norms count, and images and tokens matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = noise if parameter.dim() > 1 else 0.1
            if scale:
                parameter.add_(torch.empty_like(parameter).normal_(generator=generator), alpha=scale)
    return model.eval()


def med_of(hf) -> MED:
    weights = from_hf(hf.state_dict(), {}, hf.config.to_dict(), "the oracle")
    with torch.device("meta"):
        med = MED(weights.config)
    fill(med, complete_ties(med, weights.tensors), "the oracle")
    return med.eval()


def pixels_for(med, images):
    size = med.config.vision.image_size
    return torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["tiny", "base"])
def captioners(request):
    config, noise = (hf_config(TOKENIZER), 0.2) if request.param == "tiny" else (base_config(), 0.0)
    hf = randomised(BlipForConditionalGeneration(config), noise)
    return hf, med_of(hf)


@pytest.fixture(scope="module", params=["tiny", "base"])
def matchers(request):
    config, noise = (hf_config(TOKENIZER), 0.2) if request.param == "tiny" else (base_config(), 0.0)
    hf = randomised(BlipForImageTextRetrieval(config), noise)
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
    """Why the [ENC] that others forget is worth its place."""
    med = med_of(randomised(BlipForImageTextRetrieval(hf_config(TOKENIZER))))
    kv = med.cross_kv(med.encode_image(pixels_for(med, 2)), "encoder")
    scores = {first: med.match(*TOKENIZER.encode(TEXTS, 20, first=first), kv) for first in ("cls", "enc")}
    assert (scores["cls"] - scores["enc"]).abs().max() > 1e-3


@torch.no_grad()
def test_answer_logits():
    """VQA: question and image to states, answer decoded from the states, by towers of unequal weights."""
    config = hf_config(TOKENIZER)
    config.text_config.encoder_hidden_size = config.vision_config.hidden_size = 32
    config.vision_config.intermediate_size = 64
    hf = randomised(BlipForQuestionAnswering(config))
    encoder = _part_of(hf, BlipForImageTextRetrieval)
    decoder = _part_of(hf, BlipForConditionalGeneration)
    pixels = pixels_for(encoder, 2)
    question, _ = TOKENIZER.encode(["on a red car", "a small blue cat"], 6)
    answer, mask = TOKENIZER.encode(["two dogs", "tree"], 8, first="dec")
    seen = []
    hf.text_decoder.register_forward_hook(lambda _module, _inputs, output: seen.append(output.logits))
    hf(
        pixel_values=pixels,
        input_ids=question,
        attention_mask=torch.ones_like(question),
        decoder_input_ids=answer,
        decoder_attention_mask=mask,
    )
    states = encoder.encode_text(question, None, encoder.cross_kv(encoder.encode_image(pixels), "encoder"))
    ours = decoder.decode(answer, decoder.cross_kv(states, "decoder"), mask=mask)
    torch.testing.assert_close(ours[mask.bool()], seen[0][mask.bool()], **CLOSE)


def _part_of(hf, kind):
    """A MED of those tensors of a model that `kind` has too; its own others stay random."""
    model = randomised(kind(hf.config))
    model.load_state_dict({n: t for n, t in hf.state_dict().items() if n in model.state_dict()}, strict=False)
    return med_of(model)
