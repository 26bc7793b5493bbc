"""One shard of a task's data: the images of its records are read, and all is written as one Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from capfilt.pipeline.testset.images import read_images
from capfilt.pipeline.testset.layouts import TestImage
from capfilt.stages.status import PENDING, SUCCESS
from capfilt.stages.storage.layout import task_shard
from capfilt.stages.storage.store import FileEntry, Store, sha256
from capfilt.stages.taskdata.records import TaskRecord
from capfilt.stages.taskdata.rows import count_samples, count_usable, encode_rows
from capfilt.stages.videos.read import read_videos

NOT_THERE = ("missing_file", "http_404")
"""Statuses of an image that may be at another place."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """A shard to write; picklable."""

    run_dir: Store
    task: str
    kind: str
    split: str
    shard: int
    records: tuple[TaskRecord, ...]
    images: str
    """Folder in which the paths of the images begin."""
    frames: int = 0
    """Frames of each video; 0 for images."""
    identity: str
    """Of the files that the records come from."""


@dataclass(frozen=True)
class ShardResult:
    """A shard that is written."""

    file: FileEntry
    samples: dict[str, int]
    """By status."""
    usable: int


def write_shard(job: ShardJob) -> ShardResult:
    """Read the images and write the shard, unless an earlier attempt has written it from the same files."""
    name = task_shard(job.task, job.split, job.shard)
    data = job.run_dir.find(name)
    counts = None if data is None else count_samples(data, job.identity)
    if data is None or counts is None:
        data = encode_rows([_row(*each) for each in _read(job)], job.identity, job.kind)
        job.run_dir.put(name, data)
        counts = count_samples(data, job.identity)
        assert counts is not None, "written with this identity"
    file = FileEntry(name.rpartition("/")[2], len(data), sha256(data))
    return ShardResult(file, counts, count_usable(data, job.kind))


def _read(job: ShardJob) -> list[tuple[TaskRecord, list[bytes]]]:
    """The records with their images, or the frames of their video; none if one of them cannot be read."""
    if job.frames:
        return [_with_frames(record, job) for record in job.records]
    wanted = [_images_at(record.images) for record in job.records]
    read = _read_all(job, wanted)
    for turn in range(max((len(record.alternatives) for record in job.records), default=0)):
        again = [
            number
            for number, record in enumerate(job.records)
            if turn < len(record.alternatives) and wanted[number][0].status in NOT_THERE
        ]
        moved = [_images_at(job.records[number].alternatives[turn : turn + 1]) for number in again]
        for number, image, data in zip(again, moved, _read_all(job, moved), strict=True):
            if image[0].status not in NOT_THERE:  # else the message names the first place
                wanted[number], read[number] = image, data
    found = []
    for record, images, data in zip(job.records, wanted, read, strict=True):
        failed = next((image for image in images if image.status != SUCCESS), None)
        if failed is not None and record.status == PENDING:
            record.status, record.message = failed.status, f"{failed.row['url']}: {failed.message}"
        found.append((record, data if record.status == PENDING else []))
    return found


def _with_frames(record: TaskRecord, job: ShardJob) -> tuple[TaskRecord, list[bytes]]:
    if record.status != PENDING:
        return record, []
    (video,) = read_videos(record.images, job.images, job.frames)
    if video.status != SUCCESS:
        record.status, record.message = video.status, f"{record.images[0]}: {video.message}"
    return record, video.frames


def _images_at(places: Sequence[str]) -> list[TestImage]:
    return [TestImage({"url": place, "texts": []}, None) for place in places]  # type: ignore[typeddict-item]


def _read_all(job: ShardJob, wanted: Sequence[Sequence[TestImage]]) -> list[list[bytes]]:
    """The images of each record that can be read; sets the status of all."""
    flat = [image for of_record in wanted for image in of_record]
    read = iter(read_images(flat, job.images, lambda done: None))
    return [[data for _ in of_record if (data := next(read)) is not None] for of_record in wanted]


def _row(record: TaskRecord, images: list[bytes]) -> dict[str, object]:
    return {
        "key": record.key,
        "status": SUCCESS if record.status == PENDING else record.status,
        "error_message": record.message,
        "samples": [asdict(sample) for sample in record.samples],
        "images": images,
    }
