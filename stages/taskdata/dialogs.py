"""Dialogs about images: VisDial 1.0.

* Dialogs: `{"split", "data": {"questions", "answers", "dialogs": [{"image_id", "caption", "dialog":
  [{"question", "answer", "answer_options", "gt_index"}]}]}}`; questions and answers are numbers in the two
  lists. Each round with options is a sample. In the test split only the last round has some, without
  `gt_index`.
* Dense annotations: a list of `{"image_id", "round_id", "gt_relevance": [share of annotators for each
  option]}`, with rounds from 1; the key is `relevance` in the annotations of the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from capfilt.stages.manifest.text import open_text
from capfilt.stages.taskdata.records import (
    NO_LABEL,
    Sample,
    TaskDataError,
    TaskRecord,
    bad_record,
    describe_problem,
    find_file,
    read_json,
)

FILE_LIMIT = 1 << 31
"""Characters of a file of dialogs; the training split of VisDial 1.0 has 440 million."""
MAX_CANDIDATES = 127
"""Candidates of a question; VisDial has 100."""
NAMES = {
    "train": (
        "COCO_train2014_{image_id:012d}.jpg",
        "COCO_val2014_{image_id:012d}.jpg",
        "train2014/COCO_train2014_{image_id:012d}.jpg",
        "val2014/COCO_val2014_{image_id:012d}.jpg",
    ),
}
"""Places of an image by split; the images of the training are those of both splits of COCO."""
OTHER_NAMES = ("VisualDialog_{subtype}_{image_id:012d}.jpg",)
"""File names in the other splits, `val2018` and `test2018`."""

Relevance = dict[tuple[int, int], list[float]]
"""By image and round, from 1."""


class _Dialogs(Struct):
    """The data of a file. Its dialogs are decoded one at a time: as objects they take ten times the
    memory."""

    dialogs: list[msgspec.Raw]
    questions: list[Any]
    answers: list[Any]


class _File(Struct):
    data: _Dialogs
    split: str = ""


def read_dialogs(address: str, annotations: str | None, image_name: str | None, key: str) -> list[TaskRecord]:
    """Read the dialogs of VisDial 1.0: one record per image, one sample per question with options.

    Args:
        address: the file of the dialogs. annotations: the dense annotations, if there are some. image_name:
        file name of an image, with `{image_id}` and `{subtype}`, which is the split; None: as it was handed
        out.
        key: the config key of this data, for messages.

    Raises:
        ManifestError, TaskDataError: a file cannot be read, or has another layout.
    """
    file = _load(address, f"{key}.file")
    relevance = {} if annotations is None else _read_relevance(annotations, f"{key}.annotations")
    names = NAMES.get(file.split, OTHER_NAMES) if image_name is None else (image_name,)
    records = list(_parse(file, names, relevance))
    if not any(record.samples for record in records):
        reason = f" (first: {records[0].message})" if records else ""
        raise TaskDataError(
            f"{key}.file: {address} has no question with options{reason}; give a file of VisDial 1.0"
        )
    return records


def _load(address: str, key: str) -> _File:
    file = find_file(address, key)
    try:
        with open_text(file, file.path) as stream:
            text = stream.read(FILE_LIMIT + 1)
        if len(text) > FILE_LIMIT:
            raise ValueError(f"more than {FILE_LIMIT:,} characters")
        return msgspec.json.decode(text, type=_File)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise TaskDataError(
            f"{key}: {address} cannot be read as dialogs ({error}); give a file of VisDial 1.0, as it was "
            "handed out"
        ) from error


def _read_relevance(address: str, key: str) -> Relevance:
    document, found = read_json(address, key), Relevance()
    if not isinstance(document, list):
        raise TaskDataError(f"{key}: {address} is no list; give the dense annotations of VisDial 1.0")
    for number, entry in enumerate(document):
        try:
            values = entry["gt_relevance"] if "gt_relevance" in entry else entry["relevance"]
            found[int(entry["image_id"]), int(entry["round_id"])] = [float(value) for value in values]
        except (KeyError, TypeError, ValueError) as error:
            raise TaskDataError(
                f"{key}: entry {number} of {address} has no image_id, round_id and relevance ({error}); give "
                "the dense annotations of VisDial 1.0"
            ) from error
    return found


def _parse(file: _File, names: Sequence[str], relevance: Relevance) -> Iterator[TaskRecord]:
    for number, raw in enumerate(file.data.dialogs):
        try:
            entry = msgspec.json.decode(raw)
            image_id, caption, rounds = entry["image_id"], entry["caption"], list(entry["dialog"])
            if not isinstance(caption, str):
                raise ValueError(f"caption is {caption!r:.60}")
            images = [name.format(image_id=image_id, subtype=file.split) for name in names]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            yield bad_record(number, describe_problem(error))
            continue
        record = TaskRecord(key=str(image_id), images=(images[0],), alternatives=tuple(images[1:]))
        broken = list(_add_rounds(record, caption, rounds, file.data, relevance))
        if record.samples:
            yield record
        for message in broken:
            yield bad_record(number, f"image {image_id}, {message}")


def _add_rounds(
    record: TaskRecord, caption: str, rounds: Sequence[Any], data: _Dialogs, relevance: Relevance
) -> Iterator[str]:
    """Add a sample for each round with options; yields what is wrong with the others."""
    context = [caption]
    for number, round_ in enumerate(rounds, 1):
        try:
            question = _text_at(data.questions, round_["question"], "question")
            answer = _text_at(data.answers, round_["answer"], "answer") if "answer" in round_ else None
        except (KeyError, TypeError, ValueError) as error:
            yield f"round {number}: {describe_problem(error)}"
            return  # the rounds after it have no history
        try:
            if round_.get("answer_options"):
                dense = relevance.get((int(record.key), number), [])
                record.samples.append(_sample(record.key, number, round_, data, dense))
                record.samples[-1].text, record.samples[-1].context = question, list(context)
        except (KeyError, TypeError, ValueError) as error:
            yield f"round {number}: {describe_problem(error)}"
        if answer is None:
            if number < len(rounds):
                yield f"round {number}: 'answer' is missing"
            return
        context += [question, answer]


def _sample(
    image: str, number: int, round_: dict[str, Any], data: _Dialogs, relevance: list[float]
) -> Sample:
    candidates = [_text_at(data.answers, option, "option") for option in round_["answer_options"]]
    label = round_.get("gt_index", NO_LABEL)
    if not 2 <= len(candidates) <= MAX_CANDIDATES:
        raise ValueError(f"{len(candidates)} options; allowed: 2 to {MAX_CANDIDATES}")
    if not isinstance(label, int) or not NO_LABEL <= label < len(candidates):
        raise ValueError(f"gt_index is {label!r:.60}, with {len(candidates)} options")
    if relevance and len(relevance) != len(candidates):
        raise ValueError(f"{len(relevance)} dense annotations, but {len(candidates)} options")
    return Sample(id=f"{image}-{number}", text="", answers=candidates, label=label, relevance=relevance)


def _text_at(texts: Sequence[Any], place: Any, what: str) -> str:
    """The text with a number. An answer may be empty: some annotators gave none.

    Raises:
        ValueError: there is no such text.
    """
    if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(texts):
        raise ValueError(f"{what} {place!r:.60} is none of the {len(texts):,} of the file")
    text = texts[place]
    if not isinstance(text, str):
        raise ValueError(f"{what} {place} is no text")
    return text
