"""Totals over the commit records of a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord


@dataclass
class _Totals:
    """Sums over commit records."""

    status: Counter[str] = field(default_factory=Counter)
    by_source: dict[str, dict[str, int]] = field(default_factory=dict)
    candidates: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    texts: int = 0

    def add(self, record: CommitRecord) -> None:
        self.seconds.update(record.seconds)
        if not isinstance(record, CandidatesRecord):
            self.texts += record.texts
            return
        for origin, verdicts in record.candidates.items():
            self.candidates.setdefault(origin, Counter()).update(verdicts)


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
    }


def status_summary(status: Mapping[str, int]) -> str:
    """Rows by status, most frequent first."""
    return ", ".join(f"{count:,} {name}" for name, count in Counter(status).most_common())
