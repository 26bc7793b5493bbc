"""Commit records: built from the rows of a shard, created exclusively and last (docs/design.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET, UnsetType

from capfilt.stages.rows import RECEIVED, UNFIT
from capfilt.stages.shards.records import CommitRecord, CorpusRecord, RowCounts, decode_commit, encode
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.store import FileEntry, Store

Record = TypeVar("Record", bound=CommitRecord)

SECONDS_PREFIX = "seconds_"
"""Prefix of the columns in which the engine notes how long each stage took for the shard."""


def make_corpus_record(batch: pa.Table, fingerprint: str, files: Iterable[FileEntry]) -> CorpusRecord:
    """Commit record of the corpus shard whose rows are `batch`."""
    return CorpusRecord(
        source=batch["source"][0].as_py(),
        shard=batch["shard"][0].as_py(),
        fingerprint=fingerprint,
        files=tuple(files),
        rows=count_rows(batch),
        texts=count_texts(batch),
        unfit=_count_unfit(batch) or UNSET,
        received=_count_received(batch),
        seconds=stage_seconds(batch),
    )


def commit(store: Store, name: str, record: Record) -> Record:
    """Create the record `name`, unless another attempt has created it already.

    Returns:
        The valid record: `record`, or that of the other attempt.

    Raises:
        AssertionError: the counts of the record do not add up, so rows were lost.
    """
    rows = record.rows
    assert rows.read == sum(rows.status.values()), f"{name}: rows lost, {rows}"
    if store.create(name, encode(record)):
        return record
    return read_commit(store, name)  # type: ignore[return-value]  # records of one folder have one type


def read_commit(store: Store, name: str) -> CommitRecord:
    """The commit record `name`.

    Raises:
        FileNotFoundError: the record is absent.
        msgspec.DecodeError: the record is damaged.
    """
    if (record := find_commit(store, name)) is None:
        raise FileNotFoundError(store.address(name))
    return record


def find_commit(store: Store, name: str) -> CommitRecord | None:
    """The commit record `name`, None if it is absent.

    Raises:
        msgspec.DecodeError: the record is damaged.
    """
    data = store.find(name)
    return None if data is None else decode_commit(data)


def count_rows(batch: pa.Table) -> RowCounts:
    """Rows of a shard by status."""
    return RowCounts(read=batch.num_rows, status=dict(Counter(batch["status"].to_pylist())))


def count_verdicts(candidates: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """{origin: {"kept" | "dropped" | "unjudged": number of candidates}}."""
    origins: dict[str, Counter[str]] = {}
    for row in candidates:
        verdict = {True: "kept", False: "dropped", None: "unjudged"}[row["kept"]]
        origins.setdefault(row["origin"], Counter())[verdict] += 1
    return {origin: dict(counts) for origin, counts in sorted(origins.items())}


def count_texts(batch: pa.Table) -> int:
    """Texts of stored images that have at least one word: the pairs for training on unfiltered texts."""
    rows = zip(batch["status"].to_pylist(), batch["texts"].to_pylist(), strict=True)
    return sum(bool(text.strip()) for status, texts in rows if status == SUCCESS for text in texts or [])


def _count_unfit(batch: pa.Table) -> dict[str, int]:
    """{carried column: values that do not fit its type}, of the rows of an image tar."""
    rows = batch[UNFIT].to_pylist() if UNFIT in batch.column_names else []
    return dict(Counter(name for names in rows for name in names or []))


def _count_received(batch: pa.Table) -> int | UnsetType:
    """Bytes of the images as they came; unset where none came, or the fetch stage does not tell."""
    total = pc.sum(batch[RECEIVED]).as_py() if RECEIVED in batch.column_names else None
    return UNSET if total is None else total


def stage_seconds(batch: pa.Table) -> dict[str, float]:
    """{stage: seconds it took for this shard}, from the columns that the engine added."""
    names = [n for n in batch.column_names if n.startswith(SECONDS_PREFIX)]
    return {n.removeprefix(SECONDS_PREFIX): round(batch[n][0].as_py(), 3) for n in names}


def stage_seconds_of(result: Mapping[str, Any]) -> dict[str, float]:
    """{stage: seconds} of what a chain returned for a shard: those of its last stage, which the record lacks
    because that stage has made it."""
    return {
        name.removeprefix(SECONDS_PREFIX): seconds
        for name, seconds in result.items()
        if name.startswith(SECONDS_PREFIX) and seconds is not None
    }
