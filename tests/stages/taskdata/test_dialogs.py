"""Dialogs of VisDial 1.0: rounds with their history, dense annotations; broken rounds are rows."""

import json

import pytest

from capfilt.stages.status import PENDING
from capfilt.stages.taskdata.dialogs import read_dialogs
from capfilt.stages.taskdata.records import BAD_RECORD, TaskDataError

KEY = "tasks.t.data.test"
QUESTIONS, ANSWERS = ["is it red?", "how many?"], ["yes", "no", "two", ""]


def ask(question, answer, options=(0, 1, 2), gt=0, **changes):
    round_ = {"question": question, "answer": answer, "answer_options": list(options), "gt_index": gt}
    return {key: value for key, value in (round_ | changes).items() if value is not None}


def dialog(*rounds, image=42, caption="a dog"):
    return {"image_id": image, "caption": caption, "dialog": list(rounds)}


@pytest.fixture
def read(tmp_path):
    """Reads dialogs, with dense annotations if there are some."""

    def call(*dialogs, split="val2018", dense=None, name=None):
        data = {"questions": QUESTIONS, "answers": ANSWERS, "dialogs": list(dialogs)}
        (tmp_path / "d.json").write_text(json.dumps({"version": "1.0", "split": split, "data": data}))
        (tmp_path / "dense.json").write_text(json.dumps(dense))
        beside = None if dense is None else str(tmp_path / "dense.json")
        return read_dialogs(str(tmp_path / "d.json"), beside, name, KEY)

    return call


def test_each_round_is_a_question_with_what_was_said_before(read):
    dense = [{"image_id": 42, "round_id": 2, "gt_relevance": [0.0, 1.0, 0.4]}]
    (record,) = read(dialog(ask(0, 1, gt=1), ask(1, 2, options=(2, 3, 0))), dense=dense)
    assert (record.key, record.images, record.status) == (
        "42", ("VisualDialog_val2018_000000000042.jpg",), PENDING,
    )  # fmt: skip
    first, second = record.samples
    assert (first.id, first.text, first.answers, first.label) == (
        "42-1",
        "is it red?",
        ["yes", "no", "two"],
        1,
    )
    assert (first.context, first.relevance) == (["a dog"], [])
    assert second.context == ["a dog", "is it red?", "no"] and second.relevance == [0.0, 1.0, 0.4]
    assert second.answers == ["two", "", "yes"] and second.label == 0


def test_the_last_round_of_the_test_split_has_options_and_no_answer(read):
    before = {"question": 0, "answer": 0}
    (record,) = read(dialog(before, ask(1, None, gt=None)), split="test2018", name="{subtype}/{image_id}.png")
    assert record.images == ("test2018/42.png",)
    (sample,) = record.samples
    assert (sample.id, sample.label, sample.context) == ("42-2", -1, ["a dog", "is it red?", "yes"])


def test_images_of_the_training_may_be_in_either_split_of_coco(read):
    (record,) = read(dialog(ask(0, 0)), split="train")
    assert record.images == ("COCO_train2014_000000000042.jpg",)
    assert record.alternatives == (
        "COCO_val2014_000000000042.jpg",
        "train2014/COCO_train2014_000000000042.jpg",
        "val2014/COCO_val2014_000000000042.jpg",
    )


@pytest.mark.parametrize(
    ("round_", "message", "continues"),
    [
        (ask(9, 0), "question 9 is none of the 2 of the file", False),
        (ask(0, True), "answer True is none of the 4", False),
        ({"answer": 0}, "'question' is missing", False),
        (ask(0, None), "'answer' is missing", False),
        (ask(0, 0, options=(0, 17)), "option 17 is none of the 4", True),
        (ask(0, 0, options=(0,)), "1 options; allowed: 2 to 127", True),
        (ask(0, 0, gt=3), "gt_index is 3, with 3 options", True),
        (ask(0, 0, gt="x"), "gt_index is 'x', with 3 options", True),
    ],
)
def test_broken_rounds_are_records_with_a_reason(read, round_, message, continues):
    """Rounds after one without texts have no history; others go on."""
    good, *bad = read(dialog(ask(1, 2), round_, ask(0, 1)))
    assert [each.status for each in bad] == [BAD_RECORD]
    assert bad[0].message.startswith(f"image 42, round 2: {message}")
    expected = ["42-1", "42-3"] if continues else ["42-1", *(["42-2"] if "'answer'" in message else [])]
    assert [sample.id for sample in good.samples] == expected


def test_broken_dialogs_and_wrong_numbers_of_annotations_are_records_with_a_reason(read):
    dense = [{"image_id": 42, "round_id": 1, "relevance": [1.0]}]
    found = read(
        dialog(ask(0, 0), ask(0, 0)), {"image_id": 1}, dialog(caption=None), 5, dialog(image="x"), dense=dense
    )
    assert [each.message for each in found if each.status == BAD_RECORD] == [
        "image 42, round 1: 1 dense annotations, but 3 options",
        "'caption' is missing",
        "caption is None",
        "'int' object is not subscriptable",
        "Unknown format code 'd' for object of type 'str'",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", r"file: .* cannot be read as dialogs"),
        (
            {"data": {"dialogs": []}},
            r"file: .* cannot be read as dialogs .*required field `questions`",
        ),
        ({"data": {"dialogs": [], "questions": [], "answers": []}}, r"file: .* has no question with options"),
    ],
)
def test_other_files_are_refused_with_key_and_advice(tmp_path, content, message):
    path = tmp_path / "d.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(TaskDataError, match=rf"^tasks\.t\.data\.test\.{message}.*VisDial 1\.0"):
        read_dialogs(str(path), None, None, KEY)


@pytest.mark.parametrize("dense", [{"a": 1}, [{"image_id": 42, "round_id": 1}], [3]])
def test_other_annotations_are_refused(read, dense):
    with pytest.raises(
        TaskDataError, match=r"^tasks\.t\.data\.test\.annotations: .*dense annotations of VisDial"
    ):
        read(dialog(ask(0, 0)), dense=dense)
