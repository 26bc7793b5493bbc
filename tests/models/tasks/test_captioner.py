"""The captioner: independence of batches, equality with transformers, out-of-memory handling, input
errors."""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.images.pixels import to_pixels
from capfilt.models.keyed_random import sequence_seed
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.options import CaptionerOptions
from tests.models.blip_oracle import (
    SIZE,
    hf_captioner,
    hf_matcher,
    med_of,
    random_pixels,
    tiny_tokenizer,
)

TOKENIZER = tiny_tokenizer()
IMAGES = 11
KEYS = [f"{i:06d}{i * 7:05d}" for i in range(IMAGES)]


@pytest.fixture(scope="module")
def hf():
    return hf_captioner(TOKENIZER, seed=5, ends=3.0)


@pytest.fixture(scope="module")
def med(hf):
    return med_of(hf)


@pytest.fixture(scope="module")
def pixels():
    return random_pixels(IMAGES)


@pytest.fixture(scope="module")
def images(pixels):
    """Images of several sizes that differ from the model's image size."""
    squares = [Image.fromarray(np.asarray(image.permute(1, 2, 0))) for image in pixels]
    return [square.resize((40 + 5 * i, 60 - 2 * i)) for i, square in enumerate(squares)]


def make_captioner(med, **options):
    return Captioner(med, TOKENIZER, CaptionerOptions(**({"precision": "float32"} | options)), device="cpu")


def texts_of(captions):
    return [[caption.text for caption in image_captions] for image_captions in captions]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_captions_do_not_depend_on_batch_size_order_or_other_images(med, pixels, batch_size, n):
    expected = make_captioner(med, batch_size=64).caption(pixels, KEYS, n=n, run_seed=3, round=2)
    assert len({text for image_captions in texts_of(expected) for text in image_captions}) > IMAGES / 2
    captioner = make_captioner(med, batch_size=batch_size)
    order = np.random.default_rng(batch_size).permutation(IMAGES)[:-2].tolist()
    captions = captioner.caption(pixels[order], [KEYS[i] for i in order], n=n, run_seed=3, round=2)
    for i, image_captions in zip(order, captions, strict=True):
        assert [(c.text, c.caption_index, c.seed) for c in image_captions] == [
            (c.text, c.caption_index, c.seed) for c in expected[i]
        ]
        ours, theirs = ([c.logprob for c in captions] for captions in (image_captions, expected[i]))
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_captions_change_with_seed_round_key_and_index(med, pixels):
    captioner = make_captioner(med)
    base = texts_of(captioner.caption(pixels, KEYS, n=2))
    assert any(first != second for first, second in base)
    other_keys = [f"{key}x" for key in KEYS]
    for keys, options in ((KEYS, {"run_seed": 1}), (KEYS, {"round": 1}), (other_keys, {})):
        assert texts_of(captioner.caption(pixels, keys, n=2, **options)) != base


def test_a_caption_records_index_seed_and_logprob(med, pixels):
    captions = make_captioner(med).caption(pixels, KEYS, n=2, run_seed=9, round=4)
    for key, image_captions in zip(KEYS, captions, strict=True):
        assert [c.caption_index for c in image_captions] == [0, 1]
        assert [c.seed for c in image_captions] == [sequence_seed(9, 4, key, i) for i in (0, 1)]
        assert all(c.logprob < 0 for c in image_captions)


def test_beam_captions_equal_transformers_text(hf, med, pixels):
    """As in BLIP, the text is the decoded output without the 13 characters of the prompt and the space after
    it.

    (12 characters if the text continues the last word of the prompt, which random weights can do.)
    """
    captioner = make_captioner(med, sampling=SamplingConfig(strategy="beam"), batch_size=4)
    prompt = captioner.prompt.ids
    ids = torch.cat([prompt, torch.tensor([TOKENIZER.sep_id])]).expand(IMAGES, -1).clone()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    out = hf.generate(
        pixel_values=(pixels / 255 - mean) / std, input_ids=ids, num_beams=3, max_length=20, min_length=5
    )
    decoded = [TOKENIZER.decode(row) for row in out]
    expected = [text[13:] if text.startswith("a picture of ") else text[12:] for text in decoded]
    assert any(text.startswith("a picture of ") for text in decoded)
    assert [text for [text] in texts_of(captioner.caption(pixels, KEYS))] == expected
    assert len(set(expected)) > IMAGES / 2


def test_images_encoded_images_and_pixels_give_the_same_captions(med, images):
    captioner = make_captioner(med, batch_size=4)
    files = []
    for image in images:
        files.append(io.BytesIO())
        image.save(files[-1], "PNG")
    expected = captioner.caption(to_pixels(images, SIZE), KEYS)
    assert captioner.caption(images, KEYS) == expected
    assert captioner.caption([file.getvalue() for file in files], KEYS) == expected


def test_prompt_is_used_and_stripped(med, pixels):
    for prompt, words in (("a picture of ", "a picture of"), ("the red dog", "the red dog"), ("", "")):
        captioner = make_captioner(med, prompt=prompt)
        first, *rest = captioner.prompt.ids.tolist()
        assert first == TOKENIZER.dec_id
        assert TOKENIZER.decode(rest) == words
        assert not any(
            text.startswith("a picture of") for [text] in texts_of(captioner.caption(pixels, KEYS))
        )


def test_text_that_continues_the_last_word_of_the_prompt_has_no_piece_prefix(med):
    captioner = make_captioner(med)
    pieces = [i for i in range(TOKENIZER.vocab_size) if TOKENIZER.backend.id_to_token(i).startswith("##")]
    dog = TOKENIZER.encode(["dog"], 8)[0][0, 1].item()
    [text] = captioner._decode(torch.tensor([[pieces[0], dog, TOKENIZER.sep_id, TOKENIZER.pad_id]]))
    assert text == TOKENIZER.backend.id_to_token(pieces[0]).removeprefix("##") + " dog"


def test_no_images_give_no_captions(med):
    captioner = make_captioner(med)
    assert captioner.caption([], []) == []
    assert captioner.caption(torch.empty(0, 3, SIZE, SIZE, dtype=torch.uint8), []) == []


def test_most_bfloat16_captions_equal_those_of_float32(pixels):
    hf = hf_captioner(TOKENIZER, seed=5, ends=3.0)
    greedy = SamplingConfig(strategy="greedy", max_new_tokens=2)
    exact = make_captioner(med_of(hf), sampling=greedy).caption(pixels, KEYS)
    half = make_captioner(med_of(hf), precision="bfloat16", sampling=greedy)
    assert {p.dtype for p in half.med.parameters()} == {torch.bfloat16}
    pairs = list(zip(texts_of(exact), texts_of(half.caption(pixels, KEYS)), strict=True))
    assert sum(a == b for a, b in pairs) > len(pairs) / 2


# ---- memory


CUDA = torch.OutOfMemoryError("CUDA out of memory")


def limit_memory(captioner, most, error=CUDA):
    """Make the model raise `error` for batches of more than `most` images; returns the list of batch sizes
    tried."""
    encode, tried = captioner.med.encode_image, []

    def encode_image(pixels):
        tried.append(len(pixels))
        if len(pixels) > most:
            raise error
        return encode(pixels)

    captioner.med.encode_image = encode_image
    return tried


def test_out_of_memory_halves_the_batch_permanently_without_changing_captions(hf, med, pixels, caplog):
    expected = make_captioner(med).caption(pixels, KEYS)
    captioner = make_captioner(med_of(hf), batch_size=8)
    tried = limit_memory(captioner, most=3)
    with caplog.at_level(logging.WARNING):
        assert texts_of(captioner.caption(pixels, KEYS)) == texts_of(expected)
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]
    assert caplog.messages == [
        "out of memory with a batch of 8 images; continuing with 4",
        "out of memory with a batch of 4 images; continuing with 2",
    ]
    caplog.clear()
    tried.clear()
    captioner.caption(pixels, KEYS)
    assert max(tried) == 2
    assert not caplog.records


def test_halved_batches_equal_batches_of_that_size_exactly(hf, med, pixels):
    captioner = make_captioner(med_of(hf), batch_size=8)
    limit_memory(captioner, most=3)
    expected = make_captioner(med, batch_size=2).caption(pixels, KEYS)
    assert captioner.caption(pixels, KEYS) == expected and captioner.batches.size == 2


def test_running_out_of_host_memory_halves_the_batch_too(hf, med, pixels):
    """The recognized errors are tested in test_micro_batches.py."""
    captioner = make_captioner(med_of(hf), batch_size=8)
    limit_memory(captioner, most=4, error=MemoryError())
    expected = make_captioner(med).caption(pixels, KEYS)
    assert texts_of(captioner.caption(pixels, KEYS)) == texts_of(expected) and captioner.batches.size == 4


def test_other_errors_do_not_halve_the_batch(hf, pixels):
    captioner = make_captioner(med_of(hf), batch_size=8)
    tried = limit_memory(captioner, most=4, error=RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        captioner.caption(pixels, KEYS)
    assert tried == [8] and captioner.batches.size == 8


def test_progress_is_reported_for_every_micro_batch(hf, pixels):
    captioner = make_captioner(med_of(hf), batch_size=2)
    reports = []
    captioner.batches.on_progress = lambda: reports.append(1)
    captioner.caption(pixels, KEYS)
    assert len(reports) == -(-len(pixels) // 2)


def test_out_of_memory_with_one_image_is_an_error(hf, pixels):
    captioner = make_captioner(med_of(hf), batch_size=2)
    limit_memory(captioner, most=0)
    with pytest.raises(OutOfMemory, match=r"even with a batch size of 1 \(images\)"):
        captioner.caption(pixels, KEYS)


# ---- checkpoints and invalid input


@pytest.mark.parametrize("kind", ["capfilt", "transformers"])
def test_from_checkpoint_writes_the_same_captions(tmp_path, hf, med, pixels, kind):
    if kind == "capfilt":
        save_checkpoint(tmp_path, med, TOKENIZER, {})
    else:
        hf.save_pretrained(tmp_path)
        TOKENIZER.save(tmp_path)
    captioner = Captioner.from_checkpoint(tmp_path, CaptionerOptions(precision="float32"), device="cpu")
    assert captioner.image_size == SIZE
    assert captioner.caption(pixels, KEYS) == make_captioner(med).caption(pixels, KEYS)


def test_from_checkpoint_at_another_image_size(tmp_path, med):
    save_checkpoint(tmp_path, med, TOKENIZER, {})
    captioner = Captioner.from_checkpoint(
        tmp_path, CaptionerOptions(precision="float32"), image_size=2 * SIZE, device="cpu"
    )
    assert captioner.image_size == 2 * SIZE
    [[caption]] = captioner.caption([Image.new("RGB", (30, 50), (200, 0, 0))], ["0"])
    assert caption.text


def test_a_model_without_decoder_is_rejected(pixels):
    with pytest.raises(ValueError, match=r'"filter".*no decoder'):
        make_captioner(med_of(hf_matcher(TOKENIZER)))


def test_a_tokenizer_larger_than_the_model_is_rejected(med):
    larger = type(TOKENIZER).train(["one two three four five six seven eight nine ten"] * 3, vocab_size=400)
    larger.backend.add_tokens([f"w{i}" for i in range(200)])
    with pytest.raises(ValueError, match=r"tokenizer has \d+ tokens, the model only \d+: use the model's"):
        Captioner(med, larger, device="cpu")


@pytest.mark.parametrize(
    ("images", "keys", "words"),
    [
        (random_pixels(2), ["0"], "2 images but 1 keys"),
        (random_pixels(2).float(), ["0", "1"], r"dtype torch\.float32.*expected torch\.uint8"),
        (random_pixels(2)[:, :, :8], ["0", "1"], r"\[2, 3, 8, 32\].*\[B, 3, 32, 32\]"),
        ([b"no image"], ["0"], "cannot decode"),
    ],
)
def test_invalid_images_or_keys_are_rejected(med, images, keys, words):
    with pytest.raises(ValueError, match=words):
        make_captioner(med).caption(images, keys)


def test_a_batch_size_below_one_is_rejected(med):
    with pytest.raises(ValueError, match="batch_size is 0"):
        make_captioner(med, batch_size=0)
