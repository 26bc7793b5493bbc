"""Questions and statements in the layouts in which they are handed out; broken records are rows."""

import json

import pytest

from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.status import PENDING
from capfilt.stages.taskdata.questions import read_questions
from capfilt.stages.taskdata.records import BAD_RECORD, TaskDataError
from capfilt.stages.taskdata.statements import read_statements


@pytest.fixture
def write(tmp_path):
    """Writes a JSON file, or lines; returns its path."""

    def call(name, content):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return call


def ask(number, image, text="what?"):
    return {"question_id": number, "image_id": image, "question": text}


def answer(number, *answers):
    return {"question_id": number, "answers": [{"answer": a} for a in answers], "answer_type": "other"}


def test_vqa_v2_has_questions_and_annotations_and_images_by_number(write):
    questions = write(
        "q.json", {"data_subtype": "val2014", "questions": [ask(7, 42), ask(8, 9), ask(9, 42, "where?")]}
    )
    annotations = write("a.json", {"annotations": [answer(7, "red", "red "), answer(8, "2"), answer(9, "x")]})
    first, second = read_questions(questions, annotations, None, "tasks.t.data.test")
    assert first.images == ("COCO_val2014_000000000042.jpg",)
    assert [(s.id, s.text, s.answers, s.group) for s in first.samples] == [
        ("7", "what?", ["red", "red"], "other"),
        ("9", "where?", ["x"], "other"),
    ]
    assert second.samples[0].weight == 1.0 and second.status == PENDING
    (named, _) = read_questions(questions, None, "{image_id}.png", "k")
    assert named.images == ("42.png",) and named.samples[0].answers == []


def test_broken_questions_are_records_with_a_reason(write):
    questions = write(
        "q.json", {"questions": [ask(1, 1), {"question_id": 2}, ask(3, 1, "  "), ask(4, 1), 5, ask(6, "x")]}
    )
    annotations = write("a.json", {"annotations": [answer(1, "a"), answer(3, "a"), answer(6, "a")]})
    records = read_questions(questions, annotations, None, "k")
    assert [r.message for r in records if r.status == BAD_RECORD] == [
        "'image_id' is missing",
        "'  ' is no text",
        "question 4 has no annotation",
        "'int' object is not subscriptable",
        "Unknown format code 'd' for object of type 'str'",
    ]
    assert [s.id for r in records for s in r.samples] == ["1"]


def test_visual_genome_has_one_answer_of_a_fifth_of_the_weight(write):
    qas = [
        {"qa_id": 5, "question": "Who?", "answer": "A man."},
        {"qa_id": 6, "question": "Who?"},
        {"qa_id": 7, "question": "Why?", "answer": "Rain"},
    ]
    path = write("vg.json", [{"id": 3, "qas": qas}, {"qas": []}])
    good, *bad = read_questions(path, None, None, "k")
    assert good.images == ("3.jpg",) and [s.answers for s in good.samples] == [["A man"], ["Rain"]]
    assert {s.weight for s in good.samples} == {0.2}
    assert [r.message for r in bad] == ["a question about image 3: 'answer' is missing", "'id' is missing"]


def test_lists_of_blip_name_images_and_data_sets(write):
    path = write(
        "blip.json",
        [
            {"image": "a.jpg", "question": "q", "question_id": 1, "answer": ["x", "y"], "dataset": "vqa"},
            {"image": "vg/b.jpg", "question": "q", "answer": "z", "dataset": "vg"},
            {"question": "q"},
        ],
    )
    first, second, bad = read_questions(path, None, None, "k")
    assert (first.images, first.samples[0].answers, first.samples[0].weight) == (("a.jpg",), ["x", "y"], 1.0)
    assert (second.samples[0].id, second.samples[0].answers, second.samples[0].weight) == ("1", ["z"], 0.2)
    assert bad.message == "'image' is missing"


@pytest.mark.parametrize(
    ("content", "annotations", "message"),
    [
        ({"images": []}, None, r"tasks\.t\.data\.test\.file: .* has no questions; give the questions of VQA"),
        ("not json", None, r"tasks\.t\.data\.test\.file: .* cannot be read as JSON"),
        ([{"qas": [], "id": 1}], {}, r"tasks\.t\.data\.test\.annotations: only the questions of VQA v2"),
        ({"questions": []}, {"x": 1}, r"tasks\.t\.data\.test\.annotations: .* has no list `annotations`"),
    ],
)
def test_other_files_are_refused_with_key_and_advice(write, content, annotations, message):
    beside = None if annotations is None else write("a.json", annotations)
    with pytest.raises(TaskDataError, match=rf"^{message}"):
        read_questions(write("q.json", content), beside, None, "tasks.t.data.test")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"tasks\.t\.data\.test\.file.*no file at .*q\.json"):
        read_questions(str(tmp_path / "q.json"), None, None, "tasks.t.data.test")


def test_nlvr2_names_images_by_identifier_and_merges_pairs(write):
    lines = [
        {"identifier": "dev-850-0-0", "sentence": "two dogs", "label": "True"},
        {"identifier": "dev-850-0-1", "sentence": "no dogs", "label": "False"},
        {"identifier": "train-1-2-0", "sentence": "a cat", "label": "False", "directory": 34},
    ]
    path = write("dev.jsonl", "\n".join(map(json.dumps, lines)))
    first, second = read_statements(path, "k")
    assert first.images == ("dev-850-0-img0.png", "dev-850-0-img1.png")
    assert [(s.id, s.text, s.label) for s in first.samples] == [
        ("dev-850-0-0", "two dogs", 1),
        ("dev-850-0-1", "no dogs", 0),
    ]
    assert second.images == ("34/train-1-2-img0.png", "34/train-1-2-img1.png")


def test_statements_of_blip_and_broken_ones(write):
    path = write(
        "nlvr.json",
        [
            {"sentence": "s", "label": "True", "images": ["a.png", "b.png"]},
            {"sentence": "s", "label": "perhaps", "images": ["a.png", "c.png"]},
            {"sentence": "", "label": "True", "images": ["a.png", "d.png"]},
            {"sentence": "s", "label": "True", "images": ["a.png"]},
            {"sentence": "s", "images": ["e.png", "f.png"]},
        ],
    )
    records = read_statements(path, "k")
    assert [(r.status, len(r.samples)) for r in records] == [
        (PENDING, 1), (BAD_RECORD, 0), (BAD_RECORD, 0), (BAD_RECORD, 0), (PENDING, 1),
    ]  # fmt: skip
    assert [r.message for r in records[1:3]] == ["label is 'perhaps'", "sentence is ''"]
    assert records[4].samples[0].label == -1, "a test set without labels"
    broken = write("dev.jsonl", json.dumps({"identifier": "d-1-0-0", "sentence": "s"}) + "\n{oops\n")
    assert "line 2 is no JSON" in read_statements(broken, "k")[1].message
    with pytest.raises(TaskDataError, match=r"^k\.file: .* has no statements; give the JSON lines"):
        read_statements(write("empty.jsonl", "\n"), "k")
