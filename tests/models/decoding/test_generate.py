"""Decoding against the BLIP of transformers with the same weights: token by token, and in distribution."""

import numpy as np
import pytest
import torch
from scipy import stats
from transformers.generation import TopPLogitsWarper

from capfilt.models.decoding import state
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.decoding.generate import generate
from capfilt.models.decoding.state import GenerationRequest, Prompt
from capfilt.models.images.pixels import normalize
from capfilt.models.keyed_random import sequence_seed
from tests.models.blip_oracle import hf_captioner, med_of, random_pixels, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPT = Prompt(
    ids=TOKENIZER.encode(["a picture of "], 40, first="dec", sep=False)[0][0],
    end_id=TOKENIZER.sep_id,
    pad_id=TOKENIZER.pad_id,
)
IMAGES = 8


@pytest.fixture(scope="module", params=[1, 5])
def models(request):
    """A captioner of transformers, and a MED with the same weights."""
    hf = hf_captioner(TOKENIZER, seed=request.param, ends=4.0)
    return hf, med_of(hf)


@pytest.fixture(scope="module")
def pixels():
    return normalize(random_pixels(IMAGES))


def hf_generate(hf, pixels, *, min_new, max_new, **options):
    """New tokens by transformers, which counts the prompt in its lengths and drops the last given prompt
    token."""
    ids = torch.cat([PROMPT.ids, torch.tensor([PROMPT.end_id])]).expand(len(pixels), -1).clone()
    length = len(PROMPT.ids)
    out = hf.generate(
        pixel_values=pixels,
        input_ids=ids,
        min_length=length + min_new,
        max_length=length + max_new,
        **options,
    )
    return [up_to_end(row) for row in out[:, length:].tolist()]


def up_to_end(row):
    return row[: row.index(PROMPT.end_id) + 1] if PROMPT.end_id in row else row


def decode(med, pixels, sampling, **options):
    """The new tokens of each sequence of each image up to its end, and the raw result."""
    request = GenerationRequest(prompt=PROMPT, sampling=sampling, **options)
    out = generate(med, med.encode_image(pixels), request)
    return [[up_to_end(row) for row in image_ids] for image_ids in out.ids.tolist()], out


def hf_logprob(hf, pixels, new_ids):
    """The log-probability that transformers gives new tokens for one image."""
    ids = torch.cat([PROMPT.ids, torch.tensor(new_ids)])[None]
    states = hf.vision_model(pixels[None])[0]
    logits = hf.text_decoder(input_ids=ids, encoder_hidden_states=states).logits
    steps = logits[0, len(PROMPT.ids) - 1 : -1].log_softmax(-1)
    return steps.gather(1, torch.tensor(new_ids)[:, None]).sum().item()


@pytest.mark.parametrize(("min_new", "max_new"), [(1, 16), (6, 12), (0, 1), (3, 3)])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_equals_transformers(models, pixels, min_new, max_new, penalty):
    hf, med = models
    sampling = SamplingConfig(
        strategy="greedy",
        min_new_tokens=min_new,
        max_new_tokens=max_new,
        repetition_penalty=penalty,
        penalty_scope="all",
    )
    texts, _ = decode(med, pixels, sampling)
    expected = hf_generate(
        hf, pixels, min_new=min_new, max_new=max_new, num_beams=1, do_sample=False, repetition_penalty=penalty
    )
    assert [image_texts[0] for image_texts in texts] == expected


@pytest.mark.parametrize(("min_new", "max_new"), [(1, 16), (6, 12), (0, 2)])
@pytest.mark.parametrize(("beams", "n"), [(2, 1), (3, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_beam_search_equals_transformers(models, pixels, min_new, max_new, beams, n, penalty):
    hf, med = models
    sampling = SamplingConfig(
        strategy="beam",
        num_beams=beams,
        min_new_tokens=min_new,
        max_new_tokens=max_new,
        repetition_penalty=penalty,
        penalty_scope="all",
    )
    texts, _ = decode(med, pixels, sampling, n=n)
    options = {} if n == 1 else {"num_return_sequences": n}
    expected = hf_generate(
        hf,
        pixels,
        min_new=min_new,
        max_new=max_new,
        num_beams=beams,
        do_sample=False,
        repetition_penalty=penalty,
        **options,
    )
    assert [text for image_texts in texts for text in image_texts] == expected


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_of_64_images_equal_transformers(models, beams):
    hf, med = models
    pixels = normalize(random_pixels(64, seed=7))
    search = {"strategy": "greedy"} if beams == 1 else {"strategy": "beam", "num_beams": beams}
    texts, _ = decode(med, pixels, SamplingConfig(**search, min_new_tokens=5, max_new_tokens=20))
    expected = hf_generate(hf, pixels, min_new=5, max_new=20, num_beams=beams, do_sample=False)
    assert [image_texts[0] for image_texts in texts] == expected
    assert len(set(map(tuple, expected))) > 25


def test_the_oracle_texts_differ_in_content_and_length(models, pixels):
    """Otherwise the tests above could pass by accident."""
    for strategy in ("greedy", "beam"):
        texts, _ = decode(models[1], pixels, SamplingConfig(strategy=strategy))
        flat = [tuple(image_texts[0]) for image_texts in texts]
        assert len(set(flat)) >= 6
        assert len({len(text) for text in flat}) >= 2


@pytest.mark.parametrize("strategy", ["nucleus", "greedy", "beam"])
def test_logprobs_equal_those_of_transformers(models, pixels, strategy):
    hf, med = models
    sampling = SamplingConfig(strategy=strategy, repetition_penalty=1.3, temperature=1.2)
    n = {"nucleus": 3, "greedy": 1, "beam": 3}[strategy]
    texts, out = decode(med, pixels, sampling, seeds=torch.arange(IMAGES * n), n=n)
    expected = [
        [hf_logprob(hf, image, text) for text in image_texts]
        for image, image_texts in zip(pixels, texts, strict=True)
    ]
    torch.testing.assert_close(out.logprobs, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_nucleus_draws_follow_transformers_distribution(pixels):
    """Tokens 1 and 2 of 6,000 captions of one image against the logits and the nucleus of transformers."""
    hf = hf_captioner(TOKENIZER, seed=3, ends=0.0)
    n, sampling = 6000, SamplingConfig(max_new_tokens=2, top_p=0.9)
    seeds = torch.tensor([sequence_seed(5, 1, "00000000042", i) for i in range(n)])
    _, out = decode(med_of(hf), pixels[:1], sampling, seeds=seeds, n=n)
    tokens = out.ids[0].numpy()

    states = hf.vision_model(pixels[:1])[0]
    most_common = np.bincount(tokens[:, 0]).argmax()
    after_most_common = tokens[tokens[:, 0] == most_common, 1]
    for prefix, observed in (([], tokens[:, 0]), ([most_common], after_most_common)):
        ids = torch.cat([PROMPT.ids, torch.tensor(prefix, dtype=torch.long)])[None]
        logits = hf.text_decoder(input_ids=ids, encoder_hidden_states=states).logits[:, -1]
        if not prefix:
            logits[:, PROMPT.end_id] = -torch.inf  # min_new_tokens is 1
        expected = TopPLogitsWarper(0.9)(ids, logits).softmax(-1)[0].double().detach().numpy()
        counts = np.bincount(observed, minlength=len(expected))
        kept = expected > 0
        assert len(observed) > 500 and kept.sum() > 2
        assert counts[~kept].sum() == 0
        assert stats.chisquare(counts[kept], expected[kept] / expected.sum() * counts.sum()).pvalue > 1e-3


def test_nucleus_draws_do_not_depend_on_other_images_or_sequences(models, pixels):
    med, n, sampling = models[1], 3, SamplingConfig()
    seeds = torch.tensor([[sequence_seed(0, 1, f"{i}", c) for c in range(n)] for i in range(IMAGES)])
    together, _ = decode(med, pixels, sampling, seeds=seeds.flatten(), n=n)
    for i in reversed(range(IMAGES)):
        single, _ = decode(med, pixels[i : i + 1], sampling, seeds=seeds[i], n=n)
        first_only, _ = decode(med, pixels[i : i + 1], sampling, seeds=seeds[i, :1], n=1)
        assert single[0] == together[i]
        assert first_only[0][0] == together[i][0]
    assert len({tuple(text) for image_texts in together for text in image_texts}) > IMAGES


def test_penalty_scope_decides_whether_the_prompt_counts(pixels):
    """A model that strongly prefers a prompt token generates it once if only new tokens count, else never."""
    hf, preferred = hf_captioner(TOKENIZER, ends=-1000.0), int(PROMPT.ids[2])
    with torch.no_grad():
        hf.text_decoder.cls.predictions.bias[preferred] += 100
    for scope, count in (("generated", 1), ("all", 0)):
        sampling = SamplingConfig(strategy="greedy", repetition_penalty=1e6, penalty_scope=scope)
        texts, _ = decode(med_of(hf), pixels, sampling)
        assert [image_texts[0].count(preferred) for image_texts in texts] == [count] * IMAGES


# ---- what is computed


class Recorder:
    """Records the number of rows of each call of a method."""

    def __init__(self):
        self.rows = []

    def record(self, owner, name):
        original = getattr(owner, name)

        def recorded(first, *rest, **options):
            self.rows.append(len(first))
            return original(first, *rest, **options)

        setattr(owner, name, recorded)


@pytest.mark.parametrize(
    ("sampling", "n"),
    [
        (SamplingConfig(), 5),
        (SamplingConfig(strategy="beam", num_beams=4), 1),
        (SamplingConfig(strategy="greedy"), 1),
    ],
)
def test_cross_attention_reads_each_image_once(pixels, sampling, n):
    med = med_of(hf_captioner(TOKENIZER))
    seen = []
    for layer in med.text_decoder.bert.layers:
        key = layer.crossattention.self.key
        key.register_forward_hook(lambda _module, inputs, _out: seen.append(len(inputs[0])))
    decode(med, pixels, sampling, seeds=torch.arange(IMAGES * n), n=n)
    assert seen == [IMAGES] * len(med.text_decoder.bert.layers)


@pytest.mark.parametrize(("strategy", "sequences"), [("nucleus", 2), ("beam", 3), ("greedy", 1)])
def test_images_whose_sequences_are_finished_leave_the_batch(pixels, strategy, sequences):
    hf = hf_captioner(TOKENIZER, seed=6, ends=5.0)
    med = med_of(hf)
    recorder = Recorder()
    recorder.record(med, "decode_states")
    n = sequences if strategy == "nucleus" else 1
    seeds = torch.arange(IMAGES * n)
    decode(med, pixels, SamplingConfig(strategy=strategy), seeds=seeds, n=n)
    prompt_rows, *rows = recorder.rows
    assert prompt_rows == IMAGES  # the prompt is read once per image, not per sequence
    assert rows[0] == IMAGES * sequences
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] <= IMAGES * sequences / 2


@pytest.mark.parametrize("steps", [4, 100])
@pytest.mark.parametrize("strategy", ["nucleus", "beam", "greedy"])
def test_finished_sequences_in_the_batch_change_nothing(models, pixels, monkeypatch, strategy, steps):
    """As on a GPU, where finished images are removed only every few steps."""
    n = 1 if strategy == "greedy" else 2
    seeds = torch.arange(IMAGES * n)
    expected, before = decode(models[1], pixels, SamplingConfig(strategy=strategy), seeds=seeds, n=n)
    monkeypatch.setattr(state, "sync_interval", lambda device: steps)
    texts, after = decode(models[1], pixels, SamplingConfig(strategy=strategy), seeds=seeds, n=n)
    assert texts == expected
    torch.testing.assert_close(after.logprobs, before.logprobs)
    assert ((after.ids == PROMPT.pad_id) == (before.ids == PROMPT.pad_id)).all()


def test_decoding_stops_when_all_sequences_are_finished(pixels):
    med = med_of(hf_captioner(TOKENIZER, ends=1000.0))
    recorder = Recorder()
    recorder.record(med, "decode_states")
    texts, _ = decode(med, pixels, SamplingConfig(max_new_tokens=40), seeds=torch.arange(IMAGES))
    assert {len(image_texts[0]) for image_texts in texts} == {
        2
    }  # one token, because of min_new_tokens, and the end token
    assert len(recorder.rows) == 2


# ---- invalid requests


@pytest.mark.parametrize(
    ("sampling", "options", "words"),
    [
        (
            SamplingConfig(max_new_tokens=45),
            {"seeds": torch.arange(IMAGES)},
            "4 tokens.*45 add up to 49.*48 positions",
        ),
        (SamplingConfig(strategy="greedy"), {"n": 2}, "2 sequences.*'greedy' allows 1 to 1"),
        (SamplingConfig(strategy="beam"), {"n": 4}, "4 sequences.*'beam' allows 1 to 3"),
        (SamplingConfig(), {"n": 0, "seeds": torch.arange(0)}, "0 sequences.*'nucleus' allows at least 1"),
        (SamplingConfig(), {}, r"seeds of shape \[8\].*none"),
        (SamplingConfig(), {"seeds": torch.arange(3)}, r"seeds of shape \[8\].*\[3\]"),
    ],
)
def test_generate_rejects_invalid_requests(models, pixels, sampling, options, words):
    with pytest.raises(ValueError, match=words):
        decode(models[1], pixels, sampling, **options)


def test_generate_rejects_a_model_in_training_mode(pixels):
    med = med_of(hf_captioner(TOKENIZER)).train()
    with pytest.raises(ValueError, match="eval"):
        decode(med, pixels, SamplingConfig(strategy="greedy"))


def test_generate_rejects_no_images(models, pixels):
    with pytest.raises(ValueError, match="image_states is empty"):
        decode(models[1], pixels[:0], SamplingConfig(strategy="greedy"))


def test_prompt_and_new_tokens_may_fill_all_positions(models, pixels):
    positions = models[1].config.text.max_positions
    sampling = SamplingConfig(strategy="greedy", max_new_tokens=positions - len(PROMPT.ids))
    _, out = decode(models[1], pixels[:1], sampling)
    assert out.ids.shape == (1, 1, positions - len(PROMPT.ids))
