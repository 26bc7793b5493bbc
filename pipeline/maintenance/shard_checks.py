"""Compares the commit record of one shard with the shard's files and with its place in the run directory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import pyarrow.parquet as pq

from capfilt.stages.concurrency import map_ahead
from capfilt.stages.shards.commit import count_rows, count_texts, count_verdicts
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord, decode_commit
from capfilt.stages.storage.layout import ShardFiles, candidates_folder, corpus_folder
from capfilt.stages.storage.listing import file_sizes
from capfilt.stages.storage.store import DECODE_ERRORS, FileEntry, Store, sha256

THREADS = 8
"""Shards that are read at the same time. Each is in memory as a whole."""
RECORD_THREADS = 32
"""Records that are read at the same time from an object store."""


class Sizes:
    """Sizes of files by listings, each folder listed once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._folders: dict[str, dict[str, int]] = {}
        self._lock = Lock()
        """Threads that check shards of one folder wait for its listing."""

    def find_fault(self, path: str, file: FileEntry) -> str | None:
        """What is wrong with a file that a record lists, as far as a listing shows it."""
        folder, _, name = path.rpartition("/")
        with self._lock:
            if folder not in self._folders:
                self._folders[folder] = file_sizes(self.store, folder)
        size = self._folders[folder].get(name)
        if size is None:
            return f"{file.name} is missing"
        return None if size == file.bytes else f"{file.name} has {size} of {file.bytes} bytes"


@dataclass(frozen=True)
class FileChecks:
    """Checks of the files that records list: by their content, or by their sizes alone."""

    store: Store
    sizes: Sizes | None
    """Given if no file is to be read."""

    def find_fault(self, path: str, file: FileEntry) -> str | None:
        """What is wrong with a file that is not one of a shard."""
        if self.sizes is not None:
            return self.sizes.find_fault(path, file)
        return read_listed_file(self.store, path, file)[1]

    def check_shards(
        self, folder: str, shards: Iterable[int]
    ) -> Iterator[tuple[ShardFiles, CommitRecord | None, list[str]]]:
        """Each shard with its record, None if that cannot be decoded, and what is wrong with the shard."""

        def check(shard: int) -> tuple[ShardFiles, CommitRecord | None, list[str]]:
            place = ShardFiles(folder, shard)
            return place, *self._check_shard(place)

        if self.sizes is None:
            return map_ahead(check, shards, THREADS)
        # On a disk, records are read faster than they are passed between threads.
        return map(check, shards) if self.store.is_local else map_ahead(check, shards, RECORD_THREADS)

    def _check_shard(self, place: ShardFiles) -> tuple[CommitRecord | None, list[str]]:
        if self.sizes is None:
            return check_shard(self.store, place)
        record, faults = check_record(self.store, place)
        listed = () if record is None else record.files
        found = (self.sizes.find_fault(place.path(file.name), file) for file in listed)
        return record, faults + [fault for fault in found if fault is not None]


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
    record, faults = check_record(store, place)
    if record is None:
        return None, faults
    for file in record.files:
        data, fault = read_listed_file(store, place.path(file.name), file)
        faults += [fault] if data is None and fault else _check_content(file.name, data or b"", record)
    return record, faults


def check_record(store: Store, place: ShardFiles) -> tuple[CommitRecord | None, list[str]]:
    """The record of a shard, None if it cannot be decoded, and what is wrong with the record by itself."""
    try:
        data = store.find(place.record)
        if data is None:
            return None, ["the record is gone since it was listed"]
        record = decode_commit(data)
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
