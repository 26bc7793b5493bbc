"""Questions with answers: VQA v2, Visual Genome, and the lists of salesforce/BLIP.

* VQA v2: a file of questions (`{"questions": [{"question_id", "image_id", "question"}], "data_subtype"}`) and
  a file of annotations (`{"annotations": [{"question_id", "answers": [{"answer"}], "answer_type"}]}`).
* Visual Genome: `question_answers.json`, a list of `{"id", "qas": [{"qa_id", "question", "answer"}]}`.
* BLIP: a list of `{"image", "question", "question_id", "answer", "dataset"}`; `answer` is one text or a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from capfilt.stages.taskdata.records import (
    Sample,
    TaskDataError,
    TaskRecord,
    bad_record,
    merge_records,
    read_json,
)

VISUAL_GENOME_WEIGHT = 0.2
"""Weight of the only answer of a question of Visual Genome; the reference's data/vqa_dataset.py."""
COCO_NAME = "COCO_{subtype}_{image_id:012d}.jpg"
"""File names of the images of VQA v2, whose numbers `data_subtype` and `image_id` give."""
VISUAL_GENOME_NAME = "{image_id}.jpg"


def read_questions(
    address: str, annotations: str | None, image_name: str | None, key: str
) -> list[TaskRecord]:
    """Read questions in one of the layouts; questions about the same image are one record.

    Args:
        address: the file of the questions.
        annotations: the answers of VQA v2; the other layouts have them in the file of the questions.
        image_name: file name of an image, with `{image_id}` and `{subtype}`; None: as it was handed out.
        key: the config key of this data, for messages.

    Raises:
        ManifestError, TaskDataError: a file cannot be read, or has another layout.
    """
    document = read_json(address, f"{key}.file")
    if isinstance(document, dict) and isinstance(document.get("questions"), list):
        answers = None if annotations is None else _read_annotations(annotations, f"{key}.annotations")
        return merge_records(_vqa(document, answers, image_name or COCO_NAME))
    if annotations is not None:
        raise TaskDataError(
            f"{key}.annotations: only the questions of VQA v2 have answers in a file of their own; "
            "remove the key"
        )
    if isinstance(document, list) and any(isinstance(each, dict) and "qas" in each for each in document):
        return merge_records(_visual_genome(document, image_name or VISUAL_GENOME_NAME))
    if isinstance(document, list) and any(isinstance(each, dict) and "question" in each for each in document):
        return merge_records(_blip(document))
    raise TaskDataError(
        f"{key}.file: {address} has no questions; give the questions of VQA v2, question_answers.json of "
        "Visual Genome, or a list with image, question and answer"
    )


def _read_annotations(address: str, key: str) -> dict[Any, dict[str, Any]]:
    """{question id: annotation}."""
    document = read_json(address, key)
    listed = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise TaskDataError(f"{key}: {address} has no list `annotations`; give the annotations of VQA v2")
    return {each["question_id"]: each for each in listed if isinstance(each, dict) and "question_id" in each}


def _vqa(
    document: Mapping[str, Any], annotations: Mapping[Any, dict[str, Any]] | None, name: str
) -> Iterator[TaskRecord]:
    subtype = str(document.get("data_subtype", ""))
    for number, question in enumerate(document["questions"]):
        try:
            image = name.format(image_id=question["image_id"], subtype=subtype)
            sample = Sample(id=str(question["question_id"]), text=_text(question["question"]))
            if annotations is not None:
                found = annotations.get(question["question_id"])
                if found is None:
                    yield bad_record(number, f"question {sample.id} has no annotation")
                    continue
                sample.answers = [_text(each["answer"]) for each in found["answers"]]
                sample.group = str(found.get("answer_type") or "")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            yield bad_record(number, _describe(error))
            continue
        yield TaskRecord(key=image, images=(image,), samples=[sample])


def _visual_genome(document: list[Any], name: str) -> Iterator[TaskRecord]:
    for number, entry in enumerate(document):
        try:
            image_id, questions = entry["id"], list(entry["qas"])
            image = name.format(image_id=image_id, subtype="")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            yield bad_record(number, _describe(error))
            continue
        for question in questions:
            try:
                sample = Sample(
                    id=str(question["qa_id"]),
                    text=_text(question["question"]),
                    answers=[_text(question["answer"]).rstrip(".")],
                    weight=VISUAL_GENOME_WEIGHT,
                )
            except (KeyError, TypeError, ValueError) as error:
                yield bad_record(number, f"a question about image {image_id}: {_describe(error)}")
                continue
            yield TaskRecord(key=image, images=(image,), samples=[sample])


def _blip(document: list[Any]) -> Iterator[TaskRecord]:
    for number, entry in enumerate(document):
        try:
            image, answers = _text(entry["image"]), entry.get("answer", [])
            sample = Sample(
                id=str(entry.get("question_id", number)),
                text=_text(entry["question"]),
                answers=[_text(each) for each in ([answers] if isinstance(answers, str) else answers)],
                weight=VISUAL_GENOME_WEIGHT if entry.get("dataset") == "vg" else 1.0,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield bad_record(number, _describe(error))
            continue
        yield TaskRecord(key=image, images=(image,), samples=[sample])


def _text(value: Any) -> str:
    """A text that is not empty.

    Raises:
        ValueError: it is no text, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r:.60} is no text")
    return value.strip()


def _describe(error: Exception) -> str:
    """What is wrong with a record, in words."""
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
