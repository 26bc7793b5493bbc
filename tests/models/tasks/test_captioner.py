"""The captioner: the same texts whatever the batches, transformers' texts, no text lost to memory or bad input."""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.config import SamplingConfig
from capfilt.models.images.pixels import to_pixels
from capfilt.models.keyed_random import sequence_seed
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.models.tasks.captioner import Captioner
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
CPU = {"device": "cpu", "precision": "float32"}


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
def pictures(pixels):
    """Pictures of several shapes, none of the model's."""
    images = [Image.fromarray(np.asarray(image.permute(1, 2, 0))) for image in pixels]
    return [image.resize((40 + 5 * i, 60 - 2 * i)) for i, image in enumerate(images)]


def texts_of(captions):
    return [[caption.text for caption in of_image] for of_image in captions]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_captions_do_not_depend_on_batch_size_order_or_companions(med, pixels, batch_size, n):
    expected = Captioner(med, TOKENIZER, **CPU, batch_size=64).caption(pixels, KEYS, n=n, run_seed=3, round=2)
    assert len({text for of_image in texts_of(expected) for text in of_image}) > IMAGES / 2
    captioner = Captioner(med, TOKENIZER, **CPU, batch_size=batch_size)
    order = np.random.default_rng(batch_size).permutation(IMAGES)[:-2].tolist()
    captions = captioner.caption(pixels[order], [KEYS[i] for i in order], n=n, run_seed=3, round=2)
    for i, of_image in zip(order, captions, strict=True):
        assert [(c.text, c.caption_index, c.seed) for c in of_image] == [
            (c.text, c.caption_index, c.seed) for c in expected[i]
        ]
        ours, theirs = ([c.logprob for c in captions] for captions in (of_image, expected[i]))
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_captions_change_with_seed_round_key_and_index(med, pixels):
    captioner = Captioner(med, TOKENIZER, **CPU)
    base = texts_of(captioner.caption(pixels, KEYS, n=2))
    assert any(first != second for first, second in base)
    other_keys = [f"{key}x" for key in KEYS]
    for keys, options in ((KEYS, {"run_seed": 1}), (KEYS, {"round": 1}), (other_keys, {})):
        assert texts_of(captioner.caption(pixels, keys, n=2, **options)) != base


def test_a_caption_says_how_it_came_about(med, pixels):
    captions = Captioner(med, TOKENIZER, **CPU).caption(pixels, KEYS, n=2, run_seed=9, round=4)
    for key, of_image in zip(KEYS, captions, strict=True):
        assert [c.caption_index for c in of_image] == [0, 1]
        assert [c.seed for c in of_image] == [sequence_seed(9, 4, key, i) for i in (0, 1)]
        assert all(c.logprob < 0 for c in of_image)


def test_beam_captions_equal_transformers_text(hf, med, pixels):
    """As BLIP makes them: the output decoded, less the 13 characters of the prompt and its blank.

    (12 where the text goes on with the prompt's last word, which random weights do and BLIP cuts into.)
    """
    captioner = Captioner(med, TOKENIZER, **CPU, sampling=SamplingConfig(strategy="beam"), batch_size=4)
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


def test_pictures_bytes_and_pixels_give_the_same_captions(med, pictures):
    captioner = Captioner(med, TOKENIZER, **CPU, batch_size=4)
    files = []
    for picture in pictures:
        files.append(io.BytesIO())
        picture.save(files[-1], "PNG")
    expected = captioner.caption(to_pixels(pictures, SIZE), KEYS)
    assert captioner.caption(pictures, KEYS) == expected
    assert captioner.caption([file.getvalue() for file in files], KEYS) == expected


def test_prompt_is_used_and_stripped(med, pixels):
    for prompt, words in (("a picture of ", "a picture of"), ("the red dog", "the red dog"), ("", "")):
        captioner = Captioner(med, TOKENIZER, **CPU, prompt=prompt)
        first, *rest = captioner.prompt.ids.tolist()
        assert first == TOKENIZER.dec_id
        assert TOKENIZER.decode(rest) == words
        assert not any(
            text.startswith("a picture of") for [text] in texts_of(captioner.caption(pixels, KEYS))
        )


def test_text_that_goes_on_with_the_prompts_last_word_keeps_no_marks(med):
    captioner = Captioner(med, TOKENIZER, **CPU)
    pieces = [i for i in range(TOKENIZER.vocab_size) if TOKENIZER.backend.id_to_token(i).startswith("##")]
    dog = TOKENIZER.encode(["dog"], 8)[0][0, 1].item()
    [text] = captioner._texts(torch.tensor([[pieces[0], dog, TOKENIZER.sep_id, TOKENIZER.pad_id]]))
    assert text == TOKENIZER.backend.id_to_token(pieces[0]).removeprefix("##") + " dog"


def test_no_images_no_captions(med):
    captioner = Captioner(med, TOKENIZER, **CPU)
    assert captioner.caption([], []) == []
    assert captioner.caption(torch.empty(0, 3, SIZE, SIZE, dtype=torch.uint8), []) == []


def test_bfloat16_writes_captions_of_about_the_same_likelihood(pixels):
    hf = hf_captioner(TOKENIZER, seed=5, ends=3.0)
    greedy = SamplingConfig(strategy="greedy", max_new_tokens=2)
    exact = Captioner(med_of(hf), TOKENIZER, **CPU, sampling=greedy).caption(pixels, KEYS)
    half = Captioner(med_of(hf), TOKENIZER, device="cpu", precision="bfloat16", sampling=greedy)
    assert {p.dtype for p in half.med.parameters()} == {torch.bfloat16}
    pairs = list(zip(texts_of(exact), texts_of(half.caption(pixels, KEYS)), strict=True))
    assert sum(a == b for a, b in pairs) > len(pairs) / 2


# ---- memory


CUDA = torch.OutOfMemoryError("CUDA out of memory")


def short_of_memory(captioner, most, error=CUDA):
    """Makes the model fail as CUDA does when more than `most` images come at once; returns the batches tried."""
    encode, tried = captioner.med.encode_image, []

    def encode_image(pixels):
        tried.append(len(pixels))
        if len(pixels) > most:
            raise error
        return encode(pixels)

    captioner.med.encode_image = encode_image
    return tried


def test_out_of_memory_halves_the_batch_for_good_and_changes_nothing(hf, med, pixels, caplog):
    expected = Captioner(med, TOKENIZER, **CPU).caption(pixels, KEYS)
    captioner = Captioner(med_of(hf), TOKENIZER, **CPU, batch_size=8)
    tried = short_of_memory(captioner, most=3)
    with caplog.at_level(logging.WARNING):
        assert texts_of(captioner.caption(pixels, KEYS)) == texts_of(expected)
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]
    assert caplog.messages == [
        "out of memory with 8 images at once, going on with 4",
        "out of memory with 4 images at once, going on with 2",
    ]
    caplog.clear()
    tried.clear()
    captioner.caption(pixels, KEYS)
    assert max(tried) == 2
    assert not caplog.records


def test_halved_batches_give_what_batches_of_that_size_give_to_the_bit(hf, med, pixels):
    captioner = Captioner(med_of(hf), TOKENIZER, **CPU, batch_size=8)
    short_of_memory(captioner, most=3)
    expected = Captioner(med, TOKENIZER, **CPU, batch_size=2).caption(pixels, KEYS)
    assert captioner.caption(pixels, KEYS) == expected and captioner.batches.size == 2


def test_the_host_out_of_memory_halves_too(hf, med, pixels):
    """Which errors say so is in test_inference.py."""
    captioner = Captioner(med_of(hf), TOKENIZER, **CPU, batch_size=8)
    short_of_memory(captioner, most=4, error=MemoryError())
    expected = Captioner(med, TOKENIZER, **CPU).caption(pixels, KEYS)
    assert texts_of(captioner.caption(pixels, KEYS)) == texts_of(expected) and captioner.batches.size == 4


def test_another_error_halves_nothing(hf, pixels):
    captioner = Captioner(med_of(hf), TOKENIZER, **CPU, batch_size=8)
    tried = short_of_memory(captioner, most=4, error=RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        captioner.caption(pixels, KEYS)
    assert tried == [8] and captioner.batches.size == 8


def test_every_micro_batch_is_told(hf, pixels):
    captioner = Captioner(med_of(hf), TOKENIZER, **CPU, batch_size=2)
    told = []
    captioner.batches.on_progress = lambda: told.append(1)
    captioner.caption(pixels, KEYS)
    assert len(told) == -(-len(pixels) // 2)


def test_out_of_memory_with_one_image_is_an_error(hf, pixels):
    captioner = Captioner(med_of(hf), TOKENIZER, **CPU, batch_size=2)
    short_of_memory(captioner, most=0)
    with pytest.raises(OutOfMemory, match="even with images one at a time"):
        captioner.caption(pixels, KEYS)


# ---- checkpoints and refusals


@pytest.mark.parametrize("kind", ["ours", "transformers"])
def test_from_checkpoint_writes_the_same_captions(tmp_path, hf, med, pixels, kind):
    if kind == "ours":
        save_checkpoint(tmp_path, med, TOKENIZER, {})
    else:
        hf.save_pretrained(tmp_path)
        TOKENIZER.save(tmp_path)
    captioner = Captioner.from_checkpoint(tmp_path, **CPU)
    assert captioner.image_size == SIZE
    assert captioner.caption(pixels, KEYS) == Captioner(med, TOKENIZER, **CPU).caption(pixels, KEYS)


def test_from_checkpoint_at_another_image_size(tmp_path, med):
    save_checkpoint(tmp_path, med, TOKENIZER, {})
    captioner = Captioner.from_checkpoint(tmp_path, **CPU, image_size=2 * SIZE)
    assert captioner.image_size == 2 * SIZE
    [[caption]] = captioner.caption([Image.new("RGB", (30, 50), (200, 0, 0))], ["0"])
    assert caption.text


def test_refuses_a_filter(pixels):
    with pytest.raises(ValueError, match=r"'filter'.*no decoder"):
        Captioner(med_of(hf_matcher(TOKENIZER)), TOKENIZER, **CPU)


def test_refuses_a_tokenizer_larger_than_the_model(med):
    words = type(TOKENIZER).train(["one two three four five six seven eight nine ten"] * 3, vocab_size=400)
    words.backend.add_tokens([f"w{i}" for i in range(200)])
    with pytest.raises(ValueError, match="do not belong together"):
        Captioner(med, words, **CPU)


@pytest.mark.parametrize(
    ("images", "keys", "words"),
    [
        (random_pixels(2), ["0"], "2 images but 1 keys"),
        (random_pixels(2).float(), ["0", "1"], "float32.*uint8"),
        (random_pixels(2)[:, :, :8], ["0", "1"], r"\[2, 3, 8, 32\].*\[B, 3, 32, 32\]"),
        ([b"no image"], ["0"], "cannot decode"),
    ],
)
def test_refuses_images_that_do_not_fit(med, images, keys, words):
    with pytest.raises(ValueError, match=words):
        Captioner(med, TOKENIZER, **CPU).caption(images, keys)


def test_refuses_a_batch_size_below_one(med):
    with pytest.raises(ValueError, match="batch_size is 0"):
        Captioner(med, TOKENIZER, **CPU, batch_size=0)
