"""One shard of a task's data: the images of its records are read, and all is written as one Parquet file."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from capfilt.pipeline.testset.images import read_images
from capfilt.pipeline.testset.layouts import TestImage
from capfilt.stages.status import PENDING, SUCCESS
from capfilt.stages.storage.layout import task_shard
from capfilt.stages.storage.store import FileEntry, Store, sha256
from capfilt.stages.taskdata.records import TaskRecord
from capfilt.stages.taskdata.rows import count_samples, count_usable, encode_rows


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
        data = encode_rows([_row(record, images) for record, images in _read(job)], job.identity)
        job.run_dir.put(name, data)
        counts = count_samples(data, job.identity)
        assert counts is not None, "written with this identity"
    file = FileEntry(name.rpartition("/")[2], len(data), sha256(data))
    return ShardResult(file, counts, count_usable(data, job.kind))


def _read(job: ShardJob) -> list[tuple[TaskRecord, list[bytes]]]:
    """The records with their images; none if one of them cannot be read."""
    wanted = [
        TestImage({"url": image, "texts": []}, None)  # type: ignore[typeddict-item]
        for record in job.records
        for image in record.images
    ]
    read = iter(zip(wanted, read_images(wanted, job.images, lambda done: None), strict=True))
    found = []
    for record in job.records:
        images: list[bytes] = []
        for _ in record.images:
            image, data = next(read)
            if data is not None:
                images.append(data)
            elif record.status == PENDING:
                record.status, record.message = image.status, f"{image.row['url']}: {image.message}"
        found.append((record, images if record.status == PENDING else []))
    return found


def _row(record: TaskRecord, images: list[bytes]) -> dict[str, object]:
    return {
        "key": record.key,
        "status": SUCCESS if record.status == PENDING else record.status,
        "error_message": record.message,
        "samples": [asdict(sample) for sample in record.samples],
        "images": images,
    }
