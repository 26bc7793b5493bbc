"""Videos with texts, and questions about videos, in the layouts of MSRVTT and MSVD.

* MSRVTT: `{"videos": [{"video_id", "split"}], "sentences": [{"video_id", "caption"}]}`.
* Test and training lists of MSRVTT: a csv with the column `video_id`, and `sentence` if each video has one
  text. A csv without sentences takes those of MSRVTT's json (`annotations`).
* Lists, JSON lines or one list: `{"video_id", "caption"}`; also `clip_name`, `video` and `sentence`.
* MSRVTT-QA and MSVD-QA: a list or JSON lines of `{"video_id", "question", "answer", "id"}`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any

from capfilt.stages.manifest.text import open_text
from capfilt.stages.taskdata.records import (
    Sample,
    TaskDataError,
    TaskRecord,
    bad_record,
    describe_problem,
    find_file,
    merge_records,
    read_entries,
    read_json,
)

VIDEO_KEYS = ("video_id", "clip_name", "video", "video_name")
TEXT_KEYS = ("caption", "sentence")
QUESTION_WORDS = ("what", "who", "how", "when", "where")
"""Kinds of questions that are also scored apart, by the first word, as on MSRVTT-QA and MSVD-QA."""
Texts = list[tuple[Any, Any]]
"""(video, text) of each sentence."""


def read_video_texts(
    address: str, sentences: str | None, part: str | None, name: str | None, key: str
) -> list[TaskRecord]:
    """Read videos with their texts; texts of one video are one record.

    Args:
        address: the file.
        sentences: MSRVTT's json, for a csv that only names videos.
        part: the part of MSRVTT's json.
        name: file name of a video, with `{video_id}`; None: see `name_of_video`.
        key: the config key of this data, for messages.

    Raises:
        ManifestError, TaskDataError: a file cannot be read, or has another layout.
    """
    if address.lower().endswith((".csv", ".csv.gz")):
        entries = _read_csv(address, sentences, key)
    elif sentences is not None:
        raise TaskDataError(f"{key}.annotations: only for a csv that names videos; remove the key")
    else:
        entries = _read_texts(address, part, key)
    needed = "texts of videos; give MSRVTT's json, or a csv or list with video_id and sentence"
    return _merged(_texts(entries, name), address, key, needed)


def read_video_questions(address: str, name: str | None, key: str) -> list[TaskRecord]:
    """Read questions about videos; questions about one video are one record.

    Args:
        address: the file.
        name: file name of a video, with `{video_id}`; None: see `name_of_video`.
        key: the config key of this data, for messages.

    Raises:
        ManifestError, TaskDataError: the file cannot be read, or has another layout.
    """
    records = _questions(read_entries(address, f"{key}.file"), name)
    return _merged(
        records, address, key, "questions about videos; give a list with video_id, question and answer"
    )


def name_of_video(video: Any, name: str | None) -> str:
    """The file name of a video: by a pattern, else `video7.mp4` for the number 7 and `ID.mp4` for a name
    without suffix.

    Raises:
        ValueError: it is neither a number nor a name.
    """
    if isinstance(video, bool) or not isinstance(video, int | str) or not str(video).strip():
        raise ValueError(f"{video!r:.60} names no video")
    if name is not None:
        return name.format(video_id=video, image_id=video, subtype="")
    if isinstance(video, int):
        return f"video{video}.mp4"
    return video if "." in video.rpartition("/")[2] else f"{video}.mp4"


def _read_csv(address: str, sentences: str | None, key: str) -> Texts:
    file = find_file(address, f"{key}.file")
    try:
        with open_text(file, file.path) as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise TaskDataError(f"{key}.file: {address} cannot be read as csv ({error})") from error
    columns = set(rows[0]) if rows else set()
    if "video_id" not in columns or ("sentence" in columns) == (sentences is not None):
        shown = ", ".join(str(column) for column in rows[0]) if rows else "none"
        raise TaskDataError(
            f"{key}.file: {address} has the columns {shown}; needed are video_id and sentence, or video_id "
            f"and MSRVTT's json as {key}.annotations"
        )
    if sentences is None:
        return [(row["video_id"], row["sentence"]) for row in rows]
    wanted = {row["video_id"] for row in rows}
    document = read_json(sentences, f"{key}.annotations")
    return [pair for pair in _sentences(document, sentences, f"{key}.annotations") if pair[0] in wanted]


def _read_texts(address: str, part: str | None, key: str) -> Texts:
    entries = read_entries(address, f"{key}.file")
    first = next(entries, None)
    if not isinstance(first, dict) or "sentences" not in first:
        listed = [] if first is None else [first, *entries]
        return [(_first(entry, VIDEO_KEYS), _first(entry, TEXT_KEYS)) for entry in listed]
    found = _sentences(first, address, f"{key}.file")
    splits = {
        video.get("video_id"): video.get("split")
        for video in first.get("videos", ())
        if isinstance(video, dict)
    }
    known = sorted({str(split) for split in splits.values()})
    if part is not None and part not in known:
        raise TaskDataError(f"{key}.split: {address} has no videos of {part}; allowed: {', '.join(known)}")
    return [pair for pair in found if part is None or splits.get(pair[0]) == part]


def _sentences(document: Any, address: str, key: str) -> Texts:
    listed = document.get("sentences") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise TaskDataError(f"{key}: {address} has no list `sentences`; give MSRVTT's json")
    return [(_first(entry, VIDEO_KEYS), _first(entry, TEXT_KEYS)) for entry in listed]


def _first(entry: Any, keys: Iterable[str]) -> Any:
    """The value of the first key that an entry has; a `KeyError` as value if it has none."""
    if not isinstance(entry, dict):
        return entry if isinstance(entry, Exception) else TypeError(f"{entry!r:.60} is no record")
    return next((entry[key] for key in keys if key in entry), KeyError(next(iter(keys))))


def _texts(entries: Texts, name: str | None) -> Iterator[TaskRecord]:
    for number, (video, text) in enumerate(entries):
        try:
            for value in (video, text):
                if isinstance(value, Exception):
                    raise value
            file = name_of_video(video, name)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{text!r:.60} is no text")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            yield bad_record(number, describe_problem(error))
            continue
        yield TaskRecord(key=file, images=(file,), samples=[Sample(id=str(video), text=text.strip())])


def _questions(entries: Iterable[Any], name: str | None) -> Iterator[TaskRecord]:
    for number, entry in enumerate(entries):
        try:
            video = _first(entry, VIDEO_KEYS)
            if isinstance(video, Exception):
                raise video
            file, question, answer = name_of_video(video, name), entry["question"], entry.get("answer")
            if not isinstance(question, str) or not question.strip():
                raise ValueError(f"{question!r:.60} is no text")
            word = question.split()[0].lower()
            sample = Sample(
                id=str(entry.get("id", entry.get("question_id", number))),
                text=question.strip(),
                answers=[] if answer is None else [str(answer).strip()],
                group=str(entry.get("answer_type") or (word if word in QUESTION_WORDS else "")),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            yield bad_record(number, describe_problem(error))
            continue
        yield TaskRecord(key=file, images=(file,), samples=[sample])


def _merged(records: Iterable[TaskRecord], address: str, key: str, needed: str) -> list[TaskRecord]:
    """Records by video.

    Raises:
        TaskDataError: there is none.
    """
    found = list(records)
    if not any(record.samples for record in found):
        reason = f" (first: {found[0].message})" if found else ""
        raise TaskDataError(f"{key}.file: {address} has no {needed}{reason}")
    return merge_records(found)
