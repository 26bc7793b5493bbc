"""What the data sets of all tasks become: images with samples, or a reason why there are none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from capfilt.stages.errors import UserError
from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.files import ManifestFile, find_files
from capfilt.stages.manifest.records import load_document
from capfilt.stages.manifest.text import open_text
from capfilt.stages.status import PENDING

BAD_RECORD = "bad_record"
"""Status of a record that does not say what its layout promises; the others are those of fetching."""
FALSE, TRUE, NO_LABEL = 0, 1, -1


class TaskDataError(UserError):
    """A file of a task cannot be used; the message names the file, the key and what to do."""


@dataclass(kw_only=True)
class Sample:
    """One example of a task."""

    id: str
    """Number or name of the example in its file."""
    text: str
    """A question, a statement, or a caption."""
    answers: list[str] = field(default_factory=list)
    """Of a question: the answer of each annotator. Of a question in a dialog: the candidates."""
    weight: float = 1.0
    """How much the example counts in a training."""
    label: int = NO_LABEL
    """Of a statement: `TRUE` or `FALSE`. Of a question in a dialog: the number of its answer among the
    candidates, from 0."""
    group: str = ""
    """A kind of examples that is also scored apart, such as the type of the answer."""
    context: list[str] = field(default_factory=list)
    """Of a question in a dialog: the caption of the image, then the questions and answers before it."""
    relevance: list[float] = field(default_factory=list)
    """Of a question in a dialog: the share of annotators for whom each candidate answers it, if known."""


@dataclass(kw_only=True)
class TaskRecord:
    """One image, or one pair of images, with its samples."""

    key: str
    images: tuple[str, ...]
    """Paths or addresses of the images."""
    samples: list[Sample] = field(default_factory=list)
    status: str = PENDING
    message: str | None = None
    """Why the record cannot be used."""
    alternatives: tuple[str, ...] = ()
    """Of a record of one image: other places where it may be, in the order in which they are tried."""


def bad_record(number: int, message: str) -> TaskRecord:
    """A record that cannot be used.

    Args:
        number: its place in the file, from 0.
    """
    return TaskRecord(key=f"record-{number}", images=(), status=BAD_RECORD, message=message)


def merge_records(records: Iterable[TaskRecord]) -> list[TaskRecord]:
    """Records with the same images become one, with the samples of all, in the order of the first."""
    merged: dict[Any, TaskRecord] = {}
    for number, record in enumerate(records):
        place = record.images if record.status == PENDING else number
        first = merged.setdefault(place, record)
        if first is not record:
            first.samples.extend(record.samples)
    return list(merged.values())


def describe_problem(error: Exception) -> str:
    """What is wrong with a record, in words."""
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def find_file(address: str, key: str) -> ManifestFile:
    """The file at an address.

    Args:
        key: the config key that names it, for messages.

    Raises:
        ManifestError: there is none, or it cannot be read.
        TaskDataError: there are several.
    """
    try:
        files = find_files(ManifestConfig(manifest=address, format="json"), key)
    except ManifestError as error:  # the key of a source would have `manifest` below it
        raise ManifestError(str(error).replace(f"{key}.manifest", key)) from error
    if len(files) != 1:
        raise TaskDataError(f"{key}: {address} names {len(files)} files; give one")
    return files[0]


def read_json(address: str, key: str) -> Any:
    """The JSON document at an address.

    Raises:
        ManifestError: there is no such file.
        TaskDataError: it is no JSON document.
    """
    file = find_file(address, key)
    try:
        return load_document(file)
    except (OSError, ValueError) as error:
        raise TaskDataError(f"{key}: {address} cannot be read as JSON ({error}); give the file as it was "
                            "handed out") from error  # fmt: skip


def read_lines(address: str, key: str) -> Iterator[str]:
    """The lines of a file of text that are not empty.

    Raises:
        ManifestError: there is no such file.
        TaskDataError: it cannot be read.
    """
    file = find_file(address, key)
    try:
        with open_text(file, file.path) as stream:
            yield from (line for line in stream if line.strip())
    except (OSError, ValueError) as error:
        raise TaskDataError(f"{key}: {address} cannot be read ({error}); give a file of text") from error


def read_entries(address: str, key: str) -> Iterator[Any]:
    """The entries of one list or of JSON lines, whose broken lines are errors; another document is one entry.

    Raises:
        ManifestError: there is no such file.
        TaskDataError: it cannot be read.
    """
    lines = read_lines(address, key)
    first, second = next(lines, ""), next(lines, "")
    if first.lstrip().startswith("{") and second.lstrip().startswith("{"):
        for number, line in enumerate(chain((first, second), lines), 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                yield ValueError(f"line {number} is no JSON ({error})")
        return
    try:
        document = json.loads("".join((first, second, *lines)))
    except ValueError as error:
        raise TaskDataError(f"{key}: {address} cannot be read as JSON ({error})") from error
    yield from document if isinstance(document, list) else [document]
