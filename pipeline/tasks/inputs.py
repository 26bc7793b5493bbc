"""The files and checkpoints that downstream tasks read, and the record of what was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from capfilt.models.checkpoints.check import Opening, check_checkpoints
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.tasks import TaskData, TaskSection
from capfilt.pipeline.rundir.start_weights import resolve_address
from capfilt.stages.storage.artifacts import ArtifactError, ensure_local
from capfilt.stages.storage.layout import task_record
from capfilt.stages.storage.store import DECODE_ERRORS, FileEntry, Store, sha256
from capfilt.stages.taskdata.labels import list_classes
from capfilt.stages.taskdata.records import TaskDataError, find_file
from capfilt.stages.videos.support import load_av


class SplitRecord(Struct, frozen=True):
    """What was read of the files of a training or a test."""

    files: tuple[FileEntry, ...]
    """The Parquet files, by the number of their shard."""
    samples: dict[str, int]
    """Samples by status. A record that could not be read counts as one."""
    usable: int
    """Samples with images that have answers or a label, where their kind needs some."""


class TaskDataRecord(Struct, frozen=True):
    """`records/tasks/<task>/data.json`: the data of a task."""

    identity: str
    """sha256 over names, sizes and modification marks of the files."""
    splits: dict[str, SplitRecord]
    """"train" and "test"."""
    version: int = 1


def files_of(task: TaskSection, section: str) -> Iterator[tuple[str, str]]:
    """(config key, address) of every file that a task reads, without its images."""
    entries = [(f"train.{name}", each) for name, each in task.data.train.items()]
    for name, entry in [*entries, ("test", task.data.test)]:
        yield f"{section}.data.{name}.file", entry.file
        if entry.annotations is not None:
            yield f"{section}.data.{name}.annotations", entry.annotations
    if task.evaluate.answers is not None:
        yield f"{section}.evaluate.answers", task.evaluate.answers
    if task.evaluate.classes is not None:
        yield f"{section}.evaluate.classes", task.evaluate.classes


def parts_of(task: TaskSection, split: str) -> list[tuple[str, TaskData]]:
    """(name of the part in the config, files) of a split."""
    if split == "test":
        return [("test", task.data.test)]
    return [(f"train.{name}", each) for name, each in task.data.train.items()]


def identity_of(task: TaskSection, section: str) -> str:
    """See `TaskDataRecord.identity`.

    Raises:
        ManifestError, TaskDataError: a file does not exist.
    """
    versions = [
        version
        for key, address in files_of(task, section)
        if not key.endswith(("evaluate.answers", "evaluate.classes"))
        for version in _versions_of(task, address, key)
    ]
    return sha256("\n".join(versions).encode())


def _versions_of(task: TaskSection, address: str, key: str) -> Sequence[str]:
    """What changes when a file, or a folder of classes, has changed."""
    classes = list_classes(address) if task.kind == "classification" else None
    if classes is None:
        return find_file(address, key).versions
    return [
        f"{label}/{name} {size}" for label, files in classes.items() for name, size in sorted(files.items())
    ]


def check_task_files(config: Config, store: Store) -> None:
    """Check that the files of all tasks exist, and that those that were read are still the same.

    Raises:
        ManifestError, TaskDataError: the first that is not.
        VideoSupportMissing: a task has videos, but what decodes them is not installed.
    """
    for name, task in config.tasks.items():
        section = f"tasks.{name}"
        if task.frames_per_video:
            load_av()
        for key, address in files_of(task, section):
            _versions_of(task, address, key)
        record = read_task_record(store, name)
        if record is not None and record.identity != identity_of(task, section):
            raise TaskDataError(
                f"{section}.data: the files have changed since this run read them; restore them, or read "
                f"them again with --fresh data.{name}"
            )


def read_task_record(store: Store, task: str) -> TaskDataRecord | None:
    """The record of a task's data, None if they have not been read.

    Raises:
        TaskDataError: the record is damaged.
    """
    data = store.find(task_record(task))
    try:
        return None if data is None else msgspec.json.decode(data, type=TaskDataRecord)
    except DECODE_ERRORS as error:
        raise TaskDataError(
            f"{store.address(task_record(task))}: damaged ({error}); read the data again with "
            f"--fresh data.{task}"
        ) from error


def require_task_record(store: Store, task: str) -> TaskDataRecord:
    """The record of a task's data, which a node needs that comes after the one that reads them.

    Raises:
        TaskDataError: it is gone, or damaged.
    """
    record = read_task_record(store, task)
    if record is None:
        raise TaskDataError(
            f"tasks.{task}.data: no longer in the run; read it again with --fresh data.{task}"
        )
    return record


def check_task_models(config: Config, run_dir: Store, *, finetuned: bool) -> None:
    """Open the checkpoints that tasks start from, as the workers will.

    Args:
        finetuned: those of tasks with a finetuning, or those of the others.

    Raises:
        ArtifactError: the first that cannot be loaded; one line with its config key.
    """
    openings: dict[str, Opening] = {}
    for name, task in config.tasks.items():
        if task.checkpoint is None or (task.finetune is not None) != finetuned:
            continue
        key = f"tasks.{name}"
        words = task.tokenizer and ensure_local(resolve_address(task.tokenizer), f"{key}.tokenizer", run_dir)
        openings[f"{key}.checkpoint"] = Opening(
            path=ensure_local(resolve_address(task.checkpoint), f"{key}.checkpoint", run_dir),
            parts=task.parts,
            image_size=None if task.finetune is None else task.finetune.image_size,
            tokenizer=words,
            for_dialogs=task.kind == "visdial",
        )
    found = check_checkpoints(list(openings.values()))
    for key, problem in zip(openings, found, strict=True):
        if problem is not None:
            raise ArtifactError(f"{key}: {problem}")
