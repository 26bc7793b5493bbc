"""The Parquet files of a task's data, and the samples that a training reads of them."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.stages.pairs.read import image_id
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import task_shard
from capfilt.stages.storage.store import Store
from capfilt.stages.taskdata.records import NO_LABEL

SAMPLE_TYPE = pa.struct(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("weight", pa.float64()),
        ("label", pa.int8()),
        ("group", pa.string()),
    ]
)
TURN_TYPE = pa.struct(
    [*SAMPLE_TYPE, ("context", pa.list_(pa.string())), ("relevance", pa.list_(pa.float32()))]
)
"""A sample of a dialog."""


def _schema(sample: pa.DataType) -> pa.Schema:
    return pa.schema(
        [
            ("key", pa.string()),
            ("status", pa.string()),
            ("error_message", pa.string()),
            ("samples", pa.list_(sample)),
            ("images", pa.list_(pa.large_binary())),
        ]
    )


TASK_SCHEMA = _schema(SAMPLE_TYPE)
"""One row per image, or pair of images. A row that failed has no images."""
DIALOG_SCHEMA = _schema(TURN_TYPE)
"""The same for dialogs."""
IDENTITY_KEY = b"capfilt.identity"


@dataclass(frozen=True)
class TaskSample:
    """One sample with its images."""

    images: tuple[bytes, ...]
    """Encoded."""
    image_id: int
    """Equal for samples of equal images."""
    id: str
    text: str
    answers: tuple[str, ...]
    weight: float
    label: int
    group: str
    context: tuple[str, ...] = ()
    """Of a question in a dialog: the caption of the image, then the questions and answers before it."""


def encode_rows(rows: Sequence[dict[str, Any]], identity: str, kind: str) -> bytes:
    """Rows as a Parquet file.

    Args:
        identity: of the files that the rows were made from.
        kind: kind of the task, which decides on the schema.
    """
    schema = DIALOG_SCHEMA if kind == "visdial" else TASK_SCHEMA
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata({IDENTITY_KEY: identity}))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def count_samples(data: bytes, identity: str) -> dict[str, int] | None:
    """{status: samples} of a Parquet file; None if it was made from other files.

    A record without samples, which could not be read, counts as one.
    """
    file = pq.ParquetFile(io.BytesIO(data))
    if (file.schema_arrow.metadata or {}).get(IDENTITY_KEY) != identity.encode():
        return None
    counts: Counter[str] = Counter()
    for row in file.read(columns=["status", "samples"]).to_pylist():
        counts[row["status"]] += max(1, len(row["samples"] or ()))
    return dict(counts)


def count_usable(data: bytes, kind: str) -> int:
    """Samples of a Parquet file that have images, and what their kind needs (`is_usable`)."""
    rows = pq.read_table(io.BytesIO(data), columns=["status", "samples"]).to_pylist()
    used = (row["samples"] for row in rows if row["status"] == SUCCESS)
    return sum(is_usable(kind, sample) for samples in used for sample in samples)


def is_usable(kind: str, sample: dict[str, Any]) -> bool:
    """Whether a training can use a sample: a question has answers, a statement a label, a question of a
    dialog both a right and a wrong candidate."""
    match kind:
        case "vqa" | "video_qa":
            return bool(sample["answers"])
        case "nlvr2":
            return sample["label"] != NO_LABEL
        case "visdial":
            return sample["label"] != NO_LABEL and len(set(sample["answers"])) > 1
        case _:
            return True


class ReadTaskRows:
    """Turns {"source", "shard", …} into the rows of these shards that have images (`TASK_SCHEMA`).

    Args:
        run_dir: the run directory. `source` is "<task>/<split>".
    """

    def __init__(self, run_dir: Store) -> None:
        self.run_dir = run_dir

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.concat_tables([self.read(item["source"], item["shard"]) for item in batch.to_pylist()])

    def read(self, source: str, shard: int) -> pa.Table:
        """The rows of one shard that have images."""
        task, _, split = source.partition("/")
        data = self.run_dir.read(task_shard(task, split, shard))
        table = pq.read_table(io.BytesIO(data)).replace_schema_metadata(None)
        return table.filter(pc.equal(table["status"], SUCCESS))


def iter_samples(tables: Iterable[pa.Table], kind: str) -> Iterator[TaskSample]:
    """The samples of tables that a training can use, in order."""
    for table in tables:
        for row in table.to_pylist():
            images = tuple(row["images"])
            digest = hashlib.sha256(b"".join(images)).hexdigest()
            for sample in row["samples"]:
                if is_usable(kind, sample):
                    answers, context = (
                        tuple(sample.pop(name, None) or ()) for name in ("answers", "context")
                    )
                    sample.pop("relevance", None)  # trainings do not use it
                    yield TaskSample(images, image_id(digest), answers=answers, context=context, **sample)
