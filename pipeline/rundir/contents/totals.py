"""Totals over the commit records of a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord, CorpusRecord


@dataclass
class _Totals:
    """Sums over commit records."""

    status: Counter[str] = field(default_factory=Counter)
    by_source: dict[str, dict[str, int]] = field(default_factory=dict)
    candidates: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    texts: int = 0

    def add(self, record: CommitRecord) -> None:
        self.seconds.update(record.seconds)
        self.bytes.update(record_bytes(record))
        if isinstance(record, CandidatesRecord):
            for origin, verdicts in record.candidates.items():
                self.candidates.setdefault(origin, Counter()).update(verdicts)
        else:
            self.texts += record.texts


def count_records(ledger: Ledger, folders: Mapping[str, str]) -> dict[str, Any]:
    """Totals over the commit records in these folders (source → folder), as a node record holds them."""
    totals = _Totals()
    for source, folder in folders.items():
        of_source: Counter[str] = Counter()
        for record in ledger.records(folder):
            of_source.update(record.rows.status)
            totals.add(record)
        totals.by_source[source] = dict(of_source)
        totals.status.update(of_source)
    return {
        "rows": totals.status.total(),
        "status": dict(totals.status),
        "by_source": totals.by_source,
        "candidates": {origin: dict(verdicts) for origin, verdicts in totals.candidates.items()},
        "texts": totals.texts,
        "stage_seconds": {name: round(value, 1) for name, value in totals.seconds.items()},
        "bytes": dict(totals.bytes),
    }


def record_bytes(record: CommitRecord) -> dict[str, int]:
    """Bytes of a shard by what they are.

    Returns:
        `received` (images as they came), `images` (the tar) and `rows` (the Parquet file) of a corpus shard;
        else `candidates`.
    """
    if isinstance(record, CorpusRecord):
        found = {"images" if each.name.endswith(".tar") else "rows": each.bytes for each in record.files}
        return found | ({"received": record.received} if isinstance(record.received, int) else {})
    return {"candidates": sum(each.bytes for each in record.files)}


def count_bytes(ledger: Ledger, folders: Mapping[str, str]) -> dict[str, int]:
    """`record_bytes`, summed over the commit records in these folders (source → folder)."""
    total = Counter[str]()
    for folder in folders.values():
        for record in ledger.records(folder):
            total.update(record_bytes(record))
    return dict(total)


def status_summary(status: Mapping[str, int]) -> str:
    """Rows by status, most frequent first."""
    return ", ".join(f"{count:,} {name}" for name, count in Counter(status).most_common())
