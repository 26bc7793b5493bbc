"""Questions, statements and dialogs about painted scenes, with planted answers, in the layouts of VQA v2,
NLVR2 and VisDial 1.0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from capfilt.pipeline.corpora.scenes import COLORS, SHAPES, Facts, Scene, choose, scene_facts

ANNOTATORS = 10
DISSENT = 0.1
"""Probability that an annotator gives another answer than the right one."""
QUESTIONS_PER_IMAGE = 3
STATEMENTS_PER_PAIR = 2
CANDIDATES = 12
"""Candidates of a question in a dialog."""
ROUNDS = 4
"""Questions in a dialog, at most."""
SYNONYM_RELEVANCE = 0.4
"""Dense relevance of another word for the answer; that of the answer is 1."""
NUMBERS = ("one", "two", "three")
TEST_SHARE = 4
"""For each of this many training images there is one test image."""
IMAGE_NAME = "{image_id:06d}.jpg"
"""File name of the image of a question: what `data.test.image_name` has to be."""

PaintScene = Callable[[str, int, str], Scene]
"""Paints the scene of (split, row) into a file of this name, relative to the corpus; returns the scene."""
MakeRandom = Callable[[str, int, str], Random]
"""The random numbers for one purpose of (split, row)."""


def write_questions(folder: Path, images: int, paint: PaintScene, random_for: MakeRandom) -> None:
    """Write `vqa/train_questions.json`, `vqa/train_annotations.json`, the same of the test, and the images.

    Args:
        images: training images.
    """
    for split, count in (("train", images), ("test", max(1, images // TEST_SHARE))):
        questions: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for row in range(count):
            name = f"vqa/{split}/{IMAGE_NAME.format(image_id=row)}"
            facts = scene_facts(paint(f"vqa-{split}", row, name))
            random = random_for(f"vqa-{split}", row, "questions")
            for text, answer, kind in ask_questions(facts, random):
                number = len(questions)
                questions.append({"question_id": number, "image_id": row, "question": text})
                annotations.append(
                    {
                        "question_id": number,
                        "image_id": row,
                        "answer_type": kind,
                        "multiple_choice_answer": answer,
                        "answers": [
                            {"answer_id": i + 1, "answer": each}
                            for i, each in enumerate(annotate(answer, kind, random))
                        ],
                    }
                )
        document = {"data_subtype": split, "questions": questions}
        (folder / f"vqa/{split}_questions.json").write_text(json.dumps(document) + "\n")
        (folder / f"vqa/{split}_annotations.json").write_text(json.dumps({"annotations": annotations}) + "\n")


def ask_questions(facts: Facts, random: Random) -> list[tuple[str, str, str]]:
    """Different questions about a scene: (question, answer, type of the answer)."""
    asked: dict[str, tuple[str, str]] = {}
    while len(asked) < QUESTIONS_PER_IMAGE:
        text, answer, kind = _ask(facts, random)
        asked[text] = (answer, kind)
    return [(text, *rest) for text, rest in asked.items()]


def _ask(facts: Facts, random: Random) -> tuple[str, str, str]:
    draw = random.random()
    color, shape = facts[int(len(facts) * random.random())]
    if draw < 0.2:
        return "how many shapes are there?", str(len(facts)), "number"
    if draw < 0.5 and sum(each == shape for _, each in facts) == 1:
        return f"what color is the {choose(random, SHAPES[shape])}?", color, "other"
    if draw < 0.8 and sum(each == color for each, _ in facts) == 1:
        return f"what shape is {color}?", shape, "other"
    if random.random() < 0.5:
        return f"is there {_article(color)} {color} {shape}?", "yes", "yes/no"
    absent = (choose(random, tuple(COLORS)), choose(random, tuple(SHAPES)))
    while absent in facts:
        absent = (choose(random, tuple(COLORS)), choose(random, tuple(SHAPES)))
    return f"is there {_article(absent[0])} {absent[0]} {absent[1]}?", "no", "yes/no"


def annotate(answer: str, kind: str, random: Random) -> list[str]:
    """The answers of ten annotators: most give the right one, at least six of them."""
    others: dict[str, tuple[str, ...]] = {"number": ("1", "2", "3"), "yes/no": ("yes", "no")}
    wrong = others.get(kind, tuple(COLORS) if answer in COLORS else tuple(SHAPES))
    given = [answer if random.random() >= DISSENT else choose(random, wrong) for _ in range(ANNOTATORS)]
    return [answer] * 6 + given[6:]


def write_dialogs(folder: Path, images: int, paint: PaintScene, random_for: MakeRandom) -> None:
    """Write `visdial/train.json`, `visdial/test.json`, `visdial/test_dense.json` and the images.

    Args:
        images: training images.
    """
    answers = [*COLORS, *dict.fromkeys(word for words in SHAPES.values() for word in words), "yes", "no"]
    answers += NUMBERS
    for split, count in (("train", images), ("test", max(1, images // TEST_SHARE))):
        questions: dict[str, int] = {}
        dialogs, dense = [], []
        for row in range(count):
            facts = scene_facts(
                paint(f"visdial-{split}", row, f"visdial/{split}/{IMAGE_NAME}".format(image_id=row))
            )
            random = random_for(f"visdial-{split}", row, "dialog")
            rounds: list[dict[str, Any]] = []
            for question, answer in hold_dialog(facts, random):
                chosen = _candidates(answer, answers, random)
                rounds.append(
                    {
                        "question": questions.setdefault(question, len(questions)),
                        "answer": answers.index(answer),
                        "answer_options": [answers.index(each) for each in chosen],
                        "gt_index": chosen.index(answer),
                    }
                )
            noun = "shape" if len(facts) == 1 else "shapes"
            dialogs.append(
                {
                    "image_id": row,
                    "caption": f"a picture with {NUMBERS[len(facts) - 1]} {noun}",
                    "dialog": rounds,
                }
            )
            asked = int(len(rounds) * random.random())
            options = [answers[option] for option in rounds[asked]["answer_options"]]
            relevance = [_relevance(option, answers[rounds[asked]["answer"]]) for option in options]
            dense.append({"image_id": row, "round_id": asked + 1, "gt_relevance": relevance})
        data = {"questions": list(questions), "answers": answers, "dialogs": dialogs}
        document = {"version": "1.0", "split": split, "data": data}
        (folder / f"visdial/{split}.json").write_text(json.dumps(document))
        if split == "test":
            (folder / f"visdial/{split}_dense.json").write_text(json.dumps(dense))


def hold_dialog(facts: Facts, random: Random) -> list[tuple[str, str]]:
    """Questions about a scene with their answers, in the order of a dialog.

    The first is about the number of shapes, which the caption tells too. Then a shape is asked for, and "it"
    in the next question is the shape of the question before. The last one is about any shape.
    """
    shapes = [shape for _, shape in facts]
    single = [(color, shape) for color, shape in facts if shapes.count(shape) == 1]
    found = [("how many shapes are there?", NUMBERS[len(facts) - 1])]
    if single:
        color, shape = choose(random, single)
        found += [(f"is there a {choose(random, SHAPES[shape])}?", "yes"), ("what color is it?", color)]
    absent = choose(random, tuple(word for word in SHAPES if word not in shapes))
    found.append((f"is there a {choose(random, SHAPES[absent])}?", "no"))
    return found[:ROUNDS]


def _candidates(answer: str, answers: list[str], random: Random) -> list[str]:
    """Candidates of a question with the answer at any place among them."""
    others = [each for each in answers if each != answer]
    chosen = [others.pop(int(len(others) * random.random())) for _ in range(CANDIDATES - 1)]
    chosen.insert(int(CANDIDATES * random.random()), answer)
    return chosen


def _relevance(candidate: str, answer: str) -> float:
    is_synonym = any(candidate in words and answer in words for words in SHAPES.values())
    return 1.0 if candidate == answer else SYNONYM_RELEVANCE * is_synonym


def write_statements(folder: Path, pairs: int, paint: PaintScene, random_for: MakeRandom) -> None:
    """Write `nlvr2/train.jsonl`, `nlvr2/test.jsonl` and the images.

    Args:
        pairs: training pairs of images.
    """
    for split, count in (("train", pairs), ("test", max(1, pairs // TEST_SHARE))):
        lines = []
        for row in range(count):
            both = [
                scene_facts(paint(f"nlvr2-{split}-{i}", row, f"nlvr2/images/{split}-{row}-0-img{i}.png"))
                for i in (0, 1)
            ]
            random = random_for(f"nlvr2-{split}", row, "statements")
            for number in range(STATEMENTS_PER_PAIR):
                sentence, label = make_statement(both[0], both[1], random)
                entry = {
                    "identifier": f"{split}-{row}-0-{number}",
                    "sentence": sentence,
                    "label": str(label),
                }
                lines.append(json.dumps(entry))
        (folder / f"nlvr2/{split}.jsonl").write_text("\n".join(lines) + "\n")


def make_statement(left: Facts, right: Facts, random: Random) -> tuple[str, bool]:
    """A statement about two scenes, and whether it is true; half of them are."""
    is_true = random.random() < 0.5
    side, own = choose(random, (("left", left), ("right", right)))
    draw = random.random()
    if draw < 0.4:
        shown = {color for color, _ in own}
        return f"the {side} image has something {_pick(random, shown, tuple(COLORS), is_true)}.", is_true
    if draw < 0.8:
        shown = {shape for _, shape in own}
        return f"there is a {_pick(random, shown, tuple(SHAPES), is_true)} in the {side} image.", is_true
    count = len(own) if is_true else choose(random, tuple(n for n in (1, 2, 3) if n != len(own)))
    noun = "shape" if count == 1 else "shapes"
    return f"the {side} image has {('one', 'two', 'three')[count - 1]} {noun}.", is_true


def _pick(random: Random, shown: set[str], words: tuple[str, ...], is_true: bool) -> str:
    return choose(random, tuple(word for word in words if (word in shown) == is_true))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
