"""Scores of candidates in dialogs: each candidate alone and in batches; how dialogs are cut."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from capfilt.models.images.pixels import normalize, to_pixels
from capfilt.models.network.dialog import encode_dialogs
from capfilt.models.tasks.dialog_ranker import DialogRanker, DialogTurn
from capfilt.models.tasks.options import DialogOptions
from tests.models.blip_oracle import random_pixels
from tests.models.tiny_med import TOKENIZER, VISION, build

SQUARE = replace(VISION, width=32, heads=4)
CAPTIONS = ["a dog on the boat", "cat", ""]
TURNS = [
    [
        DialogTurn(question="two dogs?", candidates=["red", "a blue house near a tree", ""]),
        DialogTurn(history=["two dogs?", "red"], question="a car?", candidates=["cat", "dog"]),
    ],
    [DialogTurn(history=["bird?", "two"], question="red?", candidates=["boat"])],
    [],
]


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_scores_are_those_of_each_candidate_alone(batch_size):
    med = build(parts="filter", vision=SQUARE).eval()
    images = [Image.fromarray(each) for each in random_pixels(3).permute(0, 2, 3, 1).numpy()]
    ranker = DialogRanker(med, TOKENIZER, DialogOptions(batch_size=batch_size), device="cpu")
    found = ranker.score(images, CAPTIONS, TURNS)
    assert [[len(scores) for scores in turns] for turns in found] == [[3, 2], [1], []]
    for image, caption, turns, scored in zip(images, CAPTIONS, TURNS, found, strict=True):
        ids, _ = TOKENIZER.encode([caption], 20, first="cls")
        states = [med.encode_image(normalize(to_pixels([image], 32))), med.text_states(ids)]
        kv = med.cross_kv(torch.cat(states, dim=1), "encoder")
        for turn, scores in zip(turns, scored, strict=True):
            for candidate, score in zip(turn.candidates, scores, strict=True):
                ids, _ = encode_dialogs(TOKENIZER, [[*turn.history, turn.question, candidate]], 20)
                logits = med.match(ids, None, kv)[0]
                assert score == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)


def text_of(ids):
    """The words of a row of ids, with [SEP] as |."""
    return TOKENIZER.backend.decode(ids.tolist(), skip_special_tokens=False).replace("[SEP]", "|")


def test_the_oldest_rounds_of_a_long_dialog_are_left_out():
    dialog = ["a red car.", "two", "a dog", "cat", "bird", "boat"]
    (row,), _ = encode_dialogs(TOKENIZER, [dialog], 40)
    assert text_of(row) == "[ENC] a red car | two | a dog | cat | bird | boat |"
    for limit in (len(row) - 1, 10):  # the first round does not fit, the second just does
        (short,), mask = encode_dialogs(TOKENIZER, [dialog], limit)
        assert text_of(short) == "[ENC] a dog | cat | bird | boat |" and mask.all()
    (short,), _ = encode_dialogs(TOKENIZER, [dialog], 9)
    assert text_of(short) == "[ENC] bird | boat |"


def test_long_questions_and_answers_are_cut_and_short_rows_padded():
    long = ["dog cat bird boat", "red blue two car"]
    (row, other), mask = encode_dialogs(TOKENIZER, [long, ["dog", ""]], 8)
    assert text_of(row) == "[ENC] dog | red blue two car |"
    assert other.tolist()[4:] == [TOKENIZER.pad_id] * 4 and mask[1].tolist() == [1] * 4 + [0] * 4
    (row,), _ = encode_dialogs(TOKENIZER, [long], 5)
    assert text_of(row) == "[ENC] dog | red |"


def test_wrong_uses_are_one_line():
    with pytest.raises(ValueError, match='"nlvr" and ranks no answers of dialogs'):
        DialogRanker(build(parts="nlvr"), TOKENIZER)
    ranker = DialogRanker(build(parts="pretrain", vision=SQUARE), TOKENIZER, device="cpu")
    with pytest.raises(ValueError, match="0 images, 1 captions and 0 dialogs: pass one per image"):
        ranker.score([], ["a"], [])
