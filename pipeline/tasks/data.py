"""The node that reads the data of a downstream task: its files, and the images of every sample."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from capfilt.pipeline.config.load import to_json_data
from capfilt.pipeline.config.tasks import MAX_ANSWERS, TaskData, TaskSection
from capfilt.pipeline.console.signals import NodeStopped
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.node import Node, NodeKind, NodeResult
from capfilt.pipeline.tasks.captions import read_captions
from capfilt.pipeline.tasks.inputs import (
    SplitRecord,
    TaskDataRecord,
    identity_of,
    parts_of,
    require_task_record,
)
from capfilt.pipeline.tasks.shards import ShardJob, ShardResult, write_shard
from capfilt.stages.status import PENDING, SUCCESS
from capfilt.stages.storage.layout import task_answers, task_folder, task_record, task_records
from capfilt.stages.taskdata.dialogs import read_dialogs
from capfilt.stages.taskdata.labels import labels_of, read_labels
from capfilt.stages.taskdata.questions import read_questions
from capfilt.stages.taskdata.records import TaskRecord
from capfilt.stages.taskdata.statements import read_statements
from capfilt.stages.taskdata.videos import read_video_questions, read_video_texts

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints
    from capfilt.stages.storage.store import FileEntry, Store

SHARD_RECORDS = 256
"""Images, or pairs of images, in a shard."""
SHARD_VIDEOS = 32
"""Videos in a shard."""
SHARDS_AT_A_TIME = 64
"""Shards that are handed to the cluster together; progress is shown after them."""
SPLITS = ("train", "test")


def _outputs(node: Node) -> list[str]:
    folder = task_folder(node.task)
    return [task_records(node.task), *(f"{folder}/{split}" for split in SPLITS)]


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    task = fingerprints.config.tasks[node.task]
    frames = {"frames": task.frames_per_video} if task.frames_per_video else {}
    return {"task": node.task, "kind": task.kind, "data": to_json_data(task.data), **frames}


def _required_files(node: Node) -> list[str]:
    return [task_record(node.task)]


def _listed_files(store: Store, node: Node) -> dict[str, FileEntry]:
    splits = require_task_record(store, node.task).splits
    return {
        f"{task_folder(node.task)}/{split}/{file.name}": file
        for split, record in splits.items()
        for file in record.files
    }


def run_data(context: RunContext, node: Node) -> NodeResult:
    """Read the files of a task, and write its samples with their images in shards."""
    task, section = context.config.tasks[node.task], f"tasks.{node.task}"
    identity, splits = identity_of(task, section), dict[str, SplitRecord]()
    for split in SPLITS:
        context.progress.describe(node.name, f"reading the files of the {split} split")
        records = list(read_split(task, split, section))
        splits[split] = _write_split(context, node, _jobs(context, node, split, records, identity))
        if split == "train" and task.kind in ("vqa", "video_qa"):
            _write_answers(context, node, [record for _, record in records])
        if split == "test" and task.kind == "classification":
            labels = labels_of(record for _, record in records)
            context.store.put(task_answers(node.task), json.dumps(labels, ensure_ascii=False).encode())
        _check_usable(context, node, split, splits[split], [record for _, record in records])
    record = TaskDataRecord(identity, splits)
    context.store.put_json(task_record(node.task), msgspec.to_builtins(record))
    counts = {split: each.samples for split, each in splits.items()}
    shown = ", ".join(f"{each.usable:,} {split}" for split, each in splits.items())
    return NodeResult(f"usable samples: {shown}", tuple(node.outputs), {"samples": counts})


def read_split(task: TaskSection, split: str, section: str) -> Iterator[tuple[TaskData, TaskRecord]]:
    """The records of a split, with the part of the config from which each comes."""
    for name, part in parts_of(task, split):
        key = f"{section}.data.{name}"
        match task.kind:
            case "vqa":
                records = read_questions(part.file, part.annotations, part.image_name, key)
            case "nlvr2":
                records = read_statements(part.file, key)
            case "visdial":
                records = read_dialogs(part.file, part.annotations, part.image_name, key)
            case "video_retrieval":
                records = read_video_texts(part.file, part.annotations, part.split, part.image_name, key)
            case "video_qa":
                records = read_video_questions(part.file, part.image_name, key)
            case "retrieval" | "caption":
                records = read_captions(part.file, part.split, split, key)
            case "classification":
                records = read_labels(part.file, key)
        yield from ((part, record) for record in records[: part.limit])


def _jobs(
    context: RunContext, node: Node, split: str, records: list[tuple[TaskData, TaskRecord]], identity: str
) -> list[ShardJob]:
    """One job for each shard; the images of a shard are in one folder."""
    jobs: list[ShardJob] = []
    task = context.config.tasks[node.task]
    size = SHARD_VIDEOS if task.frames_per_video else SHARD_RECORDS
    by_folder: dict[str, list[TaskRecord]] = {}
    for part, record in records:
        by_folder.setdefault(part.images, []).append(record)
    for folder, of_folder in by_folder.items():
        for first in range(0, len(of_folder), size):
            jobs.append(
                ShardJob(
                    run_dir=context.store,
                    task=node.task,
                    kind=task.kind,
                    frames=task.frames_per_video,
                    split=split,
                    shard=len(jobs),
                    records=tuple(of_folder[first : first + size]),
                    images=folder,
                    identity=identity,
                )
            )
    return jobs


def _write_split(context: RunContext, node: Node, jobs: list[ShardJob]) -> SplitRecord:
    from capfilt.cluster.remote import map_remote
    from capfilt.pipeline.console.logs import with_worker_logging

    results: list[ShardResult] = []
    work: Callable[[ShardJob], ShardResult] = with_worker_logging(write_shard, node=node.name)
    for first in range(0, len(jobs), SHARDS_AT_A_TIME):
        if context.stop.requested:
            raise NodeStopped(f"{len(results):,} of {len(jobs):,} shards are written")
        results += map_remote(work, jobs[first : first + SHARDS_AT_A_TIME], cpus=1.0, gpus=0.0)
        context.progress.describe(node.name, f"images: {len(results):,} of {len(jobs):,} shards")
    samples: Counter[str] = Counter()
    for result in results:
        samples.update(result.samples)
    return SplitRecord(
        files=tuple(result.file for result in results),
        samples=dict(sorted(samples.items())),
        usable=sum(result.usable for result in results),
    )


def _write_answers(context: RunContext, node: Node, records: list[TaskRecord]) -> None:
    """Write the answers of the training questions, most frequent first."""
    counts = Counter(
        answer.lower()
        for record in records
        if record.status == PENDING
        for sample in record.samples
        for answer in sample.answers
    )
    ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))[:MAX_ANSWERS]
    context.store.put(task_answers(node.task), json.dumps(ranked, ensure_ascii=False).encode())


def _check_usable(
    context: RunContext, node: Node, split: str, record: SplitRecord, records: list[TaskRecord]
) -> None:
    """Say what failed.

    Raises:
        NodeFailed: nothing can be used.
    """
    failed = {name: count for name, count in record.samples.items() if name != SUCCESS}
    what = ", ".join(f"{count:,} {name}" for name, count in failed.items())
    key = f"tasks.{node.task}.data.{split}"
    if split == "train" and context.config.tasks[node.task].finetune is None:
        return
    has_images = record.samples.get(SUCCESS, 0)
    if not has_images or (split == "train" and record.usable < 2):
        bad = next((each for each in records if each.message), None)
        first = f"; first: {bad.message}" if bad is not None else ""
        missing = "no sample has its image" if not has_images else f"{record.usable} samples have an answer"
        raise NodeFailed(
            f"{key}: {missing} ({what or 'no failures'}{first}); check the file and the folder of the images"
        )
    if failed:
        context.progress.say(
            node.name,
            f"{key}: {what}; their reasons are in the column error_message of "
            f"{task_folder(node.task)}/{split}/",
        )


DATA = NodeKind(
    "data",
    outputs=_outputs,
    inputs=_inputs,
    run=run_data,
    required_files=_required_files,
    listed_files=_listed_files,
)
"""The data of a downstream task."""
