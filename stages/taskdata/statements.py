"""Statements about pairs of images: NLVR2, and the lists of salesforce/BLIP.

* NLVR2: JSON lines of `{"identifier": "dev-850-0-0", "sentence", "label": "True", "directory"}`. The images
  are `dev-850-0-img0.png` and `dev-850-0-img1.png`; those of the training are in the folder `directory`.
* BLIP: a list of `{"sentence", "label", "images": [first, second]}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from capfilt.stages.taskdata.records import (
    FALSE,
    NO_LABEL,
    TRUE,
    Sample,
    TaskDataError,
    TaskRecord,
    bad_record,
    merge_records,
    read_lines,
)

LABELS = {"true": TRUE, "false": FALSE, "": NO_LABEL}


def read_statements(address: str, key: str) -> list[TaskRecord]:
    """Read statements in one of the layouts; statements about the same images are one record.

    Args:
        address: the file.
        key: the config key of this data, for messages.

    Raises:
        ManifestError, TaskDataError: the file cannot be read, or has no statement.
    """
    records = list(_parse(_entries(address, f"{key}.file")))
    if not any(record.samples for record in records):
        reason = f" (first: {records[0].message})" if records else ""
        raise TaskDataError(
            f"{key}.file: {address} has no statements{reason}; give the JSON lines of NLVR2, or a list with "
            "sentence, label and images"
        )
    return merge_records(records)


def _entries(address: str, key: str) -> Iterator[Any]:
    """The entries of JSON lines, or of one list; an entry that is no JSON is an error."""
    lines = read_lines(address, key)
    first = next(lines, "")
    if first.lstrip().startswith("["):
        text = "".join([first, *lines])
        try:
            yield from json.loads(text)
        except ValueError as error:
            raise TaskDataError(f"{key}: {address} cannot be read as JSON ({error})") from error
        return
    for line in (first, *lines):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                yield error


def _parse(entries: Iterable[Any]) -> Iterator[TaskRecord]:
    for number, entry in enumerate(entries):
        if isinstance(entry, Exception):
            yield bad_record(number, f"line {number + 1} is no JSON ({entry})")
            continue
        try:
            images = _images_of(entry)
            label = LABELS.get(str(entry.get("label", "")).lower())
            sentence = entry["sentence"]
            if label is None or not isinstance(sentence, str) or not sentence.strip():
                what = "label" if label is None else "sentence"
                raise ValueError(f"{what} is {entry.get(what)!r:.60}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            missing = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            yield bad_record(number, missing)
            continue
        sample = Sample(id=str(entry.get("identifier", number)), text=sentence.strip(), label=label)
        yield TaskRecord(key=images[0], images=images, samples=[sample])


def _images_of(entry: dict[str, Any]) -> tuple[str, str]:
    if "images" in entry:
        first, second = entry["images"]
        return str(first), str(second)
    stem, _, _ = str(entry["identifier"]).rpartition("-")
    if not stem:
        raise ValueError(f"identifier {entry['identifier']!r:.60} names no pair of images")
    folder = f"{entry['directory']}/" if "directory" in entry else ""
    return f"{folder}{stem}-img0.png", f"{folder}{stem}-img1.png"
