"""Checks the named sets of verdicts of a run: every file against its record and against the candidates."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from capfilt.pipeline.maintenance.shard_checks import Sizes, read_listed_file
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.concurrency import map_ahead
from capfilt.stages.shards.records import CandidatesRecord
from capfilt.stages.storage.layout import (
    candidates_folder,
    verdict_set_folder,
    verdict_set_record,
    verdicts_folder,
    verdicts_shard,
)
from capfilt.stages.storage.store import DECODE_ERRORS, Store
from capfilt.stages.verdicts.judge import count_table, shard_fingerprint
from capfilt.stages.verdicts.sets import (
    VERDICTS_SCHEMA,
    VerdictSet,
    VerdictSetError,
    digest_candidates,
    find_verdicts,
    list_sets,
    read_set,
)

THREADS = 8
"""Shards that are read at the same time."""


@dataclass(frozen=True)
class SetFault:
    """One difference in a set."""

    name: str
    round: int
    place: str
    """Shard, folder or record, relative to the run directory."""
    what: str
    shard: tuple[str, int] | None = None
    """Source and number, None if the fault is not in a shard."""
    is_lost: bool = False
    """Whether the description is damaged, so that the policy is unknown."""


@dataclass
class SetChecks:
    """What has been checked."""

    faults: list[SetFault] = field(default_factory=list)
    bytes: int = 0
    unfinished: list[str] = field(default_factory=list)
    """Names, with rounds, of sets that are not complete, or whose round is not bootstrapped at the moment."""


def check_sets(run_dir: RunDir, sizes: Sizes | None = None) -> SetChecks:
    """Check every set of a run.

    Args:
        sizes: sizes of files, if no file is to be read.
    """
    checks = SetChecks()
    for name, round_ in list_sets(run_dir.store):
        try:
            found = read_set(run_dir.store, name, round_)
        except VerdictSetError:
            place = run_dir.store.place(verdict_set_record(name, round_))
            what = f"damaged; make the set again: capfilt rejudge {run_dir.store.url} --name {name}"
            checks.faults.append(SetFault(name, round_, place, what, is_lost=True))
            continue
        if found is None:
            continue
        if not found.is_done or run_dir.ledger.node(f"bootstrap.{round_}") is None:
            checks.unfinished.append(f"{name} of round {round_}")
            continue
        for fault, size in _check_set(run_dir, found, sizes):
            checks.faults += [] if fault is None else [fault]
            checks.bytes += size
    return checks


def _check_set(
    run_dir: RunDir, found: VerdictSet, sizes: Sizes | None
) -> Iterator[tuple[SetFault | None, int]]:
    """(fault, bytes) of each shard of a set that is done, and of the set as a whole."""
    records = [
        record
        for source in run_dir.config.of_kind("web")
        for record in run_dir.ledger.records(candidates_folder(found.round, source))
        if isinstance(record, CandidatesRecord)
    ]
    folder = verdict_set_folder(found.name, found.round)
    if digest_candidates(records) != found.candidates:
        what = "made from candidates that have been replaced since"
        yield SetFault(found.name, found.round, folder, what), 0
        return
    total: dict[str, int] = {}
    checks = map_ahead(lambda each: _check_shard(run_dir.store, found, each, sizes), records, THREADS)
    for record, (fault, size, counts) in zip(records, checks, strict=True):
        place = verdicts_shard(found.name, found.round, record.source, record.shard).stem
        shard = record.source, record.shard
        yield (None if fault is None else SetFault(found.name, found.round, place, fault, shard)), size
        for origin, verdicts in counts.items():
            for verdict, n in verdicts.items():
                total[f"{origin} {verdict}"] = total.get(f"{origin} {verdict}", 0) + n
    listed = {f"{origin} {v}": n for origin, of in found.verdicts.items() for v, n in of.items()}
    present = {source: set(run_dir.ledger.committed_shards(verdicts_folder(found.name, found.round, source)))
               for source in run_dir.config.of_kind("web")}  # fmt: skip
    surplus = sum(map(len, present.values())) - len(records)
    if surplus > 0:
        yield SetFault(found.name, found.round, folder, f"{surplus} shards more than the candidates have"), 0
    elif listed != total:
        what = f"{_listing(listed)}; its shards say {_listing(total)}"
        yield SetFault(found.name, found.round, folder, what), 0


def _check_shard(
    store: Store, found: VerdictSet, record: CandidatesRecord, sizes: Sizes | None
) -> tuple[str | None, int, dict[str, dict[str, int]]]:
    """What is wrong with a shard of a set, its bytes, and its verdicts by its record."""
    place = verdicts_shard(found.name, found.round, record.source, record.shard)
    try:
        done = find_verdicts(store, found.name, found.round, record.source, record.shard)
    except DECODE_ERRORS as error:
        return f"the record is damaged ({error})", 0, {}
    if done is None:
        return "no record, though the set is complete", 0, {}
    if done.fingerprint != shard_fingerprint(found, record):
        return "made from other candidates or by another policy", 0, done.verdicts
    if sizes is not None:
        return sizes.find_fault(place.path(done.file.name), done.file), done.file.bytes, done.verdicts
    data, fault = read_listed_file(store, place.path(done.file.name), done.file)
    if data is not None:
        table = pq.read_table(io.BytesIO(data))
        if table.schema != VERDICTS_SCHEMA or count_table(table) != done.verdicts:
            fault = f"{done.file.name} holds other verdicts than the record says"
    return fault, done.file.bytes, done.verdicts


def _listing(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "no verdict"
