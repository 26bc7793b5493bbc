"""Compares the commit record of one shard with the shard's files and with its place in the run directory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from capfilt.stages.shards.commit import count_rows, count_texts, count_verdicts
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord, decode_commit
from capfilt.stages.storage.layout import ShardFiles, candidates_folder, corpus_folder
from capfilt.stages.storage.store import DECODE_ERRORS, FileEntry, Store, sha256


@dataclass(frozen=True)
class ShardFolder:
    """A folder of shards, and what their records must say."""

    folder: str
    source: str
    fingerprint: str | None
    """None if no record says which: `--fresh bootstrap.1` keeps the images but removes the record."""
    rows: Mapping[int, int | None] | None
    """Shard → rows of its slice of the manifest (None for an image tar, whose images the index does not
    count). None if the index cannot be read."""


def check_against(expected: ShardFolder, record: CommitRecord, shard: int, node: str) -> list[str]:
    """What a shard's record says that does not fit its place."""
    faults = []
    if isinstance(record, CandidatesRecord):
        folder = candidates_folder(record.round, record.source)
    else:
        folder = corpus_folder(record.source)
    if (folder, record.shard) != (expected.folder, shard):
        faults.append(f"the record is that of {ShardFiles(folder, record.shard).stem}")
    rows = expected.rows
    if rows is not None and rows.get(shard) not in (None, record.rows.read):
        faults.append(f"{record.rows.read} rows, but the manifest's slice has {rows[shard]}")
    if rows is not None and shard not in rows:
        faults.append("no such slice in the manifest's index")
    if expected.fingerprint is not None and record.fingerprint != expected.fingerprint:
        faults.append(f"made with other settings than {node}")
    return faults


def check_shard(store: Store, place: ShardFiles) -> tuple[CommitRecord | None, list[str]]:
    """The record of a shard, None if it cannot be decoded, and what is wrong with the shard."""
    try:
        record = decode_commit(store.read(place.record))
    except DECODE_ERRORS as error:
        return None, [f"the record is damaged ({error})"]
    except OSError as error:  # the disk is damaged; an unreachable store raises StoreError
        return None, [f"the record cannot be read ({error.strerror or error})"]
    faults: list[str] = []
    accounted = sum(record.rows.status.values())
    if record.rows.read != accounted:
        faults.append(f"{record.rows.read} rows read, {accounted} accounted for")
    suffixes = ["parquet"] if isinstance(record, CandidatesRecord) else ["parquet", "tar"]
    if sorted(file.name.rpartition(".")[2] for file in record.files) != suffixes:
        faults.append(f"the record does not list one file of each kind ({', '.join(suffixes)})")
    for file in record.files:
        data, fault = read_listed_file(store, place.path(file.name), file)
        faults += [fault] if data is None and fault else _check_content(file.name, data or b"", record)
    return record, faults


def read_listed_file(store: Store, name: str, file: FileEntry) -> tuple[bytes | None, str | None]:
    """The content of a file that a record lists, or None and what is wrong with the file."""
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None, f"{file.name} is missing"
    except OSError as error:  # the disk is damaged; an unreachable store raises StoreError
        return None, f"{file.name} cannot be read ({error.strerror or error})"
    if len(data) != file.bytes or sha256(data) != file.sha256:
        return (
            None,
            f"{file.name} is not what was written ({len(data)} of {file.bytes} bytes, or another sha256)",
        )
    return data, None


def _check_content(name: str, data: bytes, record: CommitRecord) -> list[str]:
    """Compare the images or rows in a file with what the record of its shard counts."""
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            images = sum(member.name.endswith(".json") for member in tar)
        expected = record.rows.status.get("success", 0)
        return [] if images == expected else [f"{name} holds {images} images, the record says {expected}"]
    counted: dict[str, tuple[Any, Any]]
    if isinstance(record, CandidatesRecord):
        table = pq.read_table(io.BytesIO(data), columns=["origin", "kept"])
        expected = sum(sum(verdicts.values()) for verdicts in record.candidates.values())
        counted = {"verdicts": (count_verdicts(table.to_pylist()), record.candidates)}
    else:
        table = pq.read_table(io.BytesIO(data), columns=["status", "texts"])
        expected = record.rows.read
        statuses = count_rows(table).status
        counted = {"statuses": (statuses, record.rows.status), "texts": (count_texts(table), record.texts)}
    if table.num_rows != expected:
        return [f"{name} holds {table.num_rows} rows, the record says {expected}"]
    return [
        f"{name} holds the {what} {in_file}, the record says {in_record}"
        for what, (in_file, in_record) in counted.items()
        if in_file != in_record
    ]
