"""What `capfilt check` finds out about downstream tasks: their files are read, their samples counted."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.tasks import TaskData, TaskSection
from capfilt.pipeline.console.activity import Tell
from capfilt.pipeline.tasks.data import SPLITS, read_split
from capfilt.pipeline.tasks.inputs import files_of
from capfilt.stages.status import PENDING
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.taskdata.records import TaskDataError, TaskRecord, read_json

WEB = ("http://", "https://")


@dataclass
class SplitCheck:
    """What the files of a split hold."""

    images: int = 0
    """Images, or pairs of images, with samples."""
    samples: int = 0
    bad: int = 0
    """Records that cannot be used."""
    first_bad: str | None = None
    """Why the first of them cannot."""
    missing: str | None = None
    """The first image, if its folder does not have it."""


@dataclass
class TaskCheck:
    """A task, and what is known of its data before a run reads them."""

    kind: str
    splits: dict[str, SplitCheck] = field(default_factory=dict)
    """Empty if the run itself makes the files."""


def look_at_tasks(config: Config, tell: Tell, *, is_made: bool) -> dict[str, TaskCheck]:
    """Read the files of all tasks.

    Args:
        is_made: whether the run makes demonstration data, so that files may be missing.

    Raises:
        ManifestError, TaskDataError: a file is missing, has another layout, or lacks its folder of images.
    """
    found = {}
    for name, task in config.tasks.items():
        section = f"tasks.{name}"
        found[name] = TaskCheck(task.kind)
        if is_made and not all(_exists(address) for _, address in files_of(task, section)):
            continue
        tell(f"reading the files of {section}")
        for key, address in files_of(task, section):
            if ".evaluate." in key:
                read_json(address, key)
        found[name].splits = {split: _check_split(task, split, section) for split in SPLITS}
    return found


def _exists(address: str) -> bool:
    fs, path = open_filesystem(address)
    return bool(fs.exists(path))


def _check_split(task: TaskSection, split: str, section: str) -> SplitCheck:
    found = SplitCheck()
    by_part: dict[str, tuple[TaskData, list[TaskRecord]]] = {}
    for part, record in read_split(task, split, section):
        by_part.setdefault(part.images, (part, []))[1].append(record)
    for part, records in by_part.values():
        _count(found, records)
        if not part.images.startswith(WEB):
            if not _exists(part.images):
                raise TaskDataError(
                    f"{section}.data.{split}: there is no folder {part.images} (images); give the folder in "
                    "which the paths of the images begin"
                )
            found.missing = found.missing or _missing_image(part.images, records)
    return found


def _count(found: SplitCheck, records: Iterable[TaskRecord]) -> None:
    for record in records:
        if record.status == PENDING:
            found.images += 1
            found.samples += len(record.samples)
        else:
            found.bad += 1
            found.first_bad = found.first_bad or record.message


def _missing_image(folder: str, records: Iterable[TaskRecord]) -> str | None:
    """The first image, if the folder does not have it."""
    first = next((record.images[0] for record in records if record.status == PENDING), None)
    if first is None or "://" in first:
        return None
    return None if _exists(posixpath.join(folder, first)) else first
