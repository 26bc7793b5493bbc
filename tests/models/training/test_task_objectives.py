"""The losses of questions and statements, against a computation without batches."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from capfilt.models.config import ObjectiveConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import Questions
from capfilt.models.training.answering import AnswerObjective
from capfilt.models.training.dialog_matching import DialogObjective
from capfilt.models.training.pair_judging import StatementObjective, exchange_sides
from capfilt.models.training.throughput import training_flops
from tests.models.blip_oracle import random_pixels
from tests.models.tiny_med import TOKENIZER, VISION, build

QUESTIONS = {
    "pixels": random_pixels(3),
    "questions": ["a dog on the red car?", "Cat.", "two birds in the boat"],
    "answers": [["red", "two dogs"], ["cat"], ["boat", "tree", "a red house"]],
    "weights": [[0.7, 0.3], [0.2], [0.5, 0.4, 0.1]],
}
STATEMENTS = {"pixels": random_pixels(6), "texts": ["two dogs.", "a red car", "cat"],
              "labels": torch.tensor([1, 0, 1])}  # fmt: skip

DIALOGS = {
    "pixels": random_pixels(2),
    "captions": ["a dog on the car.", "cat"],
    "histories": [["two birds?"], ["a red car?", "a boat", "a tree?"]],
    "answers": [["a dog", "house", ""], ["Red", "a cat near the boat", "dogs"]],
}
SQUARE = replace(VISION, width=32, heads=4)
"""An image encoder as wide as the text encoder."""


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_of_answers_is_the_weighted_sum_over_tokens_and_the_mean_over_questions(smoothing):
    med = build(parts="vqa").eval()
    config = ObjectiveConfig(losses=("lm",), label_smoothing=smoothing, max_tokens=20)
    found = AnswerObjective(med, TOKENIZER, config).eval()(QUESTIONS)
    total = 0.0
    for row, question in enumerate(["a dog on the red car?", "cat", "two birds in the boat"]):
        ids, mask = TOKENIZER.encode([question], 20, first="enc")
        kv = med.cross_kv(med.encode_image(normalize(QUESTIONS["pixels"][row : row + 1])), "encoder")
        states = Questions(kv=med.cross_kv(med.encode_text(ids, mask, kv), "decoder"), mask_QN=None)
        for answer, weight in zip(QUESTIONS["answers"][row], QUESTIONS["weights"][row], strict=True):
            tokens, _ = TOKENIZER.encode([answer], 20, first="dec")
            logits = med.answer(tokens[:, :-1], states)[0]
            loss = F.cross_entropy(logits, tokens[0, 1:], reduction="sum", label_smoothing=smoothing)
            total += weight * float(loss)
    assert float(found["loss"]) == pytest.approx(total / 3, rel=1e-5) == float(found["lm"])


def test_loss_of_statements_is_the_cross_entropy_of_each():
    med = build(parts="nlvr").eval()
    found = StatementObjective(med, TOKENIZER, ObjectiveConfig(losses=("itm",), max_tokens=20)).eval()(
        STATEMENTS
    )
    losses, right = [], []
    for row, text in enumerate(["two dogs", "a red car", "cat"]):
        ids, _ = TOKENIZER.encode([text], 20, first="enc")
        pixels = normalize(STATEMENTS["pixels"])
        states = [med.encode_image(pixels[i : i + 1]) for i in (row, row + 3)]
        logits = med.judge_pair(ids, None, med.pair_kv(*states))
        label = STATEMENTS["labels"][row : row + 1]
        losses.append(float(F.cross_entropy(logits, label)))
        right.append(int(logits.argmax()) == int(label))
    assert float(found["loss"]) == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert float(found["itm_accuracy"]) == pytest.approx(sum(right) / 3)


def test_loss_of_dialogs_weighs_the_answer_as_much_as_all_false_ones():
    """Against each dialog alone, whose ids are written down by hand."""
    med = build(parts="filter", vision=SQUARE).eval()
    found = DialogObjective(med, TOKENIZER, ObjectiveConfig(losses=("itm",), max_tokens=20)).eval()(DIALOGS)
    total = right = 0.0
    for row, caption in enumerate(["a dog on the car", "cat"]):
        image = med.encode_image(normalize(DIALOGS["pixels"][row : row + 1]))
        ids, _ = TOKENIZER.encode([caption], 20, first="cls")
        kv = med.cross_kv(torch.cat([image, med.text_states(ids)], dim=1), "encoder")
        for number, answer in enumerate(DIALOGS["answers"][row]):
            tokens = [TOKENIZER.enc_id]
            for text in (*DIALOGS["histories"][row], answer.lower()):
                tokens += TOKENIZER.encode([text], 20)[0][0, 1:].tolist() if text else [TOKENIZER.sep_id]
            logits = med.match(torch.tensor([tokens]), None, kv)
            label, weight = (1, 0.5) if number == 0 else (0, 0.25)
            total += weight / 2 * float(F.cross_entropy(logits, torch.tensor([label])))
            right += weight / 2 * (int(logits.argmax()) == label)
    assert float(found["loss"]) == pytest.approx(total, rel=1e-5) == float(found["itm"])
    assert float(found["itm_accuracy"]) == pytest.approx(right)


@pytest.mark.parametrize(
    ("objective", "parts", "losses", "batch"),
    [
        (AnswerObjective, "vqa", ("lm",), QUESTIONS),
        (StatementObjective, "nlvr", ("itm",), STATEMENTS),
        (DialogObjective, "filter", ("itm",), DIALOGS),
    ],
)
def test_every_weight_learns_and_operations_are_counted(objective, parts, losses, batch):
    changes = {"vision": SQUARE} if objective is DialogObjective else {}
    med = build(parts=parts, **changes)
    built = objective(med, TOKENIZER, ObjectiveConfig(losses=losses, max_tokens=20))
    assert training_flops(built, batch) > 0 and built.step == 0
    built.train()(batch)["loss"].backward()
    without = [name for name, weight in built.med.named_parameters() if weight.grad is None]
    without = [name for name in without if not name.startswith(("vision_proj", "text_proj", "temp"))]  # ITC
    assert without == [] and built.step == 1


def test_models_and_losses_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='losses lm cannot train a "captioner" to answer questions'):
        AnswerObjective(build(parts="captioner"), TOKENIZER, ObjectiveConfig(losses=("lm",)))
    with pytest.raises(ValueError, match='losses lm cannot train a "nlvr" to judge pairs'):
        StatementObjective(build(parts="nlvr"), TOKENIZER, ObjectiveConfig(losses=("lm",)))
    with pytest.raises(ValueError, match='"vqa" and ranks no answers of dialogs: use a "filter"'):
        DialogObjective(build(parts="vqa"), TOKENIZER, ObjectiveConfig(losses=("itm",)))
    with pytest.raises(ValueError, match=r"has width 24, the text encoder 32: .*; use a ViT-B"):
        DialogObjective(build(parts="filter"), TOKENIZER, ObjectiveConfig(losses=("itm",)))
    with pytest.raises(ValueError, match="losses itc, itm cannot train dialogs"):
        DialogObjective(
            build(parts="filter", vision=SQUARE), TOKENIZER, ObjectiveConfig(losses=("itc", "itm"))
        )


@pytest.mark.parametrize(
    ("sentence", "exchanged"),
    [
        ("the left image", "the right image"),
        ("Left of it, not leftover; right!", "right of it, not leftover; left!"),
        ("two dogs", "two dogs"),
    ],
)
def test_sides_change_places_in_a_sentence(sentence, exchanged):
    assert exchange_sides(sentence) == exchanged
