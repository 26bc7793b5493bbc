"""Totals over the commit records of a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any

from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord, CorpusRecord
from capfilt.stages.storage.layout import candidates_folder

TIMED_SHARDS = 100
"""Shards of each source that tell how long captioning and filtering take."""


@dataclass
class Totals:
    """Sums over the commit records of a node.

    Args:
        sources: those of the node.
    """

    sources: InitVar[Iterable[str]]
    by_source: dict[str, Counter[str]] = field(init=False)
    """{source: {status: rows}}."""
    candidates: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    texts: int = 0

    def __post_init__(self, sources: Iterable[str]) -> None:
        self.by_source = {source: Counter() for source in sources}

    def add(self, record: CommitRecord) -> None:
        """Count a record."""
        self.by_source[record.source].update(record.rows.status)
        self.seconds.update(record.seconds)
        self.bytes.update(record_bytes(record))
        if isinstance(record, CandidatesRecord):
            for origin, verdicts in record.candidates.items():
                self.candidates.setdefault(origin, Counter()).update(verdicts)
        else:
            self.texts += record.texts

    def as_counts(self) -> dict[str, Any]:
        """The sums, as a node record holds them."""
        status = Counter[str]()
        for of_source in self.by_source.values():
            status.update(of_source)
        return {
            "rows": status.total(),
            "status": dict(status),
            "by_source": {source: dict(of) for source, of in self.by_source.items()},
            "candidates": {origin: dict(verdicts) for origin, verdicts in self.candidates.items()},
            "texts": self.texts,
            "stage_seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "bytes": dict(self.bytes),
        }


def count_records(ledger: Ledger, folders: Mapping[str, str]) -> dict[str, Any]:
    """Totals over the commit records in these folders (source → folder), as a node record holds them."""
    totals = Totals(folders)
    for folder in folders.values():
        for record in ledger.records(folder):
            totals.add(record)
    return totals.as_counts()


def caption_share(ledger: Ledger, sources: Iterable[str], round: int) -> float | None:
    """Share of captioning in the seconds of captioner and filter, by the last shards of the latest round that
    has some.

    Args:
        round: the round that is being bootstrapped.

    Returns:
        None if no shard with both is done.
    """
    for number in range(round, 0, -1):
        seconds: Counter[str] = Counter()
        for source in sources:
            for record in ledger.records(candidates_folder(number, source), last=TIMED_SHARDS):
                seconds.update(record.seconds)
        if seconds["caption"] and seconds["filter"]:
            return seconds["caption"] / (seconds["caption"] + seconds["filter"])
    return None


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
