"""Checks that a run directory holds what its records say: every file is hashed, every row accounted for.

Or only that the records fit together and list files that exist in their size: no file is read then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from capfilt.pipeline.maintenance.shard_checks import (
    THREADS,
    FileChecks,
    ShardFolder,
    Sizes,
    check_against,
)
from capfilt.pipeline.maintenance.verdict_checks import SetFault, check_sets
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.ledger import NodeRecord, StartRecord, decode_record, fingerprint
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.concurrency import map_ahead
from capfilt.stages.errors import UserError
from capfilt.stages.manifest.index import Index, decode_index
from capfilt.stages.shards.records import decode_staged
from capfilt.stages.storage.layout import (
    INDEX_PARTS,
    INDEX_RECORD,
    ShardFiles,
    candidates_folder,
    corpus_folder,
    index_folder,
    model_folder,
    node_record,
    provenance_file,
    staged_shard,
    staging_folder,
    start_record,
)
from capfilt.stages.storage.store import DECODE_ERRORS, FileEntry


@dataclass(frozen=True)
class Problem:
    """One difference between a record and the files."""

    place: str
    """File or shard, relative to the run directory."""
    what: str
    """What is wrong with it."""
    node: str
    """The node that has written it, and writes it again."""
    shard: int | None = None
    """Number of the shard, None if the problem is not in a shard."""
    remove: bool = False
    """Whether a repair removes the file at this place; the run writes it again."""
    verdicts: SetFault | None = None
    """The fault in a named set of verdicts; no node writes these."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass
class Verification:
    """What has been checked, and the problems."""

    shards: int = 0
    rows: int = 0
    bytes: int = 0
    unfinished: int = 0
    """Shards without a record, and nodes without shards that are not done. They are no problems: the run
    continues with them."""
    unfinished_sets: list[str] = field(default_factory=list)
    """Sets of verdicts that are not complete, or whose candidates are not."""
    problems: list[Problem] = field(default_factory=list)


def verify_run(run_dir: RunDir, *, records_only: bool = False) -> Verification:
    """Compare every record of a run with its files.

    Args:
        records_only: read no file that a record lists. Whether it exists and has its size is checked by a
            listing of its folder; damaged content and lost rows inside a file are not found.

    Checked are:

    * shards: every file that the record lists exists and has its sha256; the rows of the Parquet file, the
      images of the tar and the verdicts of the candidates are as many as the record says; as many rows were
      read as have a status, and as the slice of the manifest has; the fingerprint is that of the node
    * trained models and indexes of manifests: every file has its sha256
    * nodes that are done: no shard is missing, and the node's totals are the sums over its shards
    * data of downstream tasks: every file has its sha256
    * reports: all files exist
    * named sets of verdicts: they were made from the present candidates; every file has its sha256, and the
      verdicts that its record counts

    Nothing outside the run directory is read, so checkpoints and manifests need not be reachable.
    """
    found = Verification(problems=_damaged_records(run_dir))
    if found.problems:  # without these records the rest cannot be checked
        return found
    sizes = Sizes(run_dir.store) if records_only else None
    check = _Check(run_dir, found, FileChecks(run_dir.store, sizes))
    for node in run_dir.nodes.values():
        if node.kind.streams_shards:
            _verify_shards(check, node)
        elif run_dir.ledger.node(node.name) is None:
            found.unfinished += 1
        elif node.kind.trains:
            _verify_model(check, node)
        else:
            missing = [file for file in node.kind.required_files(node) if not run_dir.store.exists(file)]
            found.problems += [Problem(file, "missing", node.name) for file in missing]
            if not missing:
                _verify_listed(check, node)
    sets = check_sets(run_dir, sizes)
    found.problems += [Problem(fault.place, fault.what, "", verdicts=fault) for fault in sets.faults]
    found.unfinished_sets = sets.unfinished
    found.bytes += sets.bytes
    return found


@dataclass(frozen=True)
class _Check:
    """A verification at work."""

    run_dir: RunDir
    found: Verification
    files: FileChecks


def _damaged_records(run_dir: RunDir) -> list[Problem]:
    """The records of nodes and of staged shards that cannot be decoded."""
    damaged = _damaged_staged_records(run_dir)
    for name in run_dir.nodes:
        for place, form in ((node_record(name), NodeRecord), (start_record(name), StartRecord)):
            try:
                data = run_dir.store.find(place)
                if data is not None:
                    decode_record(data, form)
            except DECODE_ERRORS as error:
                damaged.append(Problem(place, f"damaged ({error})", name, remove=True))
    return damaged


def _damaged_staged_records(run_dir: RunDir) -> list[Problem]:
    """The records of shards that `capfilt retry` has staged; without its record a shard is retried again, or
    fetched again if the committed one is removed already."""
    damaged = []
    for node in run_dir.nodes.values():
        for source in node.sources if node.kind.streams_shards and node.round <= 1 else ():
            for shard in run_dir.ledger.committed_shards(staging_folder(source)):
                place = staged_shard(source, shard).record
                try:
                    decode_staged(run_dir.store.read(place))
                except DECODE_ERRORS as error:
                    damaged.append(Problem(place, f"damaged ({error})", node.name, remove=True))
    return damaged


def _verify_shards(check: _Check, node: Node) -> None:
    """Check the shards of a node, the indexes that they were cut by, and the totals in the node's record."""
    run_dir, found = check.run_dir, check.found
    total: Counter[str] = Counter()
    before, unfinished = len(found.problems), 0
    done = run_dir.ledger.node(node.name)
    for folder, source, expected_fingerprint in _shard_folders(run_dir, node):
        committed = run_dir.ledger.committed_shards(folder)
        rows, index_faults = _expected_rows(check, source, must_exist=bool(committed))
        if folder == corpus_folder(source):
            place = run_dir.store.place(f"{index_folder(source)}/{INDEX_RECORD}")
            found.problems += [Problem(place, what, node.name, remove=True) for what in index_faults]
        expected = ShardFolder(folder, source, expected_fingerprint, rows)
        missing = sorted(set(rows or ()) - set(committed))
        if done is None:
            unfinished += len(missing)
        else:
            found.problems += [
                Problem(ShardFiles(folder, s).stem, "no record, though the node is done", node.name, s)
                for s in missing
            ]
        status = _verify_folder(check, node, expected, committed)
        total.update(status if folder in node.outputs else {})
    if done is None:
        found.unfinished += max(unfinished, 1)
    if done is None or len(found.problems) > before:
        return
    rows, status = done.counts.get("rows", 0), Counter(done.counts.get("status", {}))
    if rows != total.total() or status != total:
        sums = _summarize(total.total(), total)
        what = f"{_summarize(rows, status)}; the records of its shards say {sums}"
        found.problems.append(Problem(node_record(node.name), what, node.name))


def _verify_folder(check: _Check, node: Node, expected: ShardFolder, committed: list[int]) -> Counter[str]:
    """Check every committed shard of a folder.

    Returns:
        Rows by status, over the records that can be decoded.
    """
    total: Counter[str] = Counter()
    found = check.found
    for place, record, faults in check.files.check_shards(expected.folder, committed):
        found.shards += 1
        if record is not None:
            found.rows += record.rows.read
            found.bytes += sum(file.bytes for file in record.files)
            total.update(record.rows.status)
            faults += check_against(expected, record, place.shard, node.name)
        found.problems += [Problem(place.stem, what, node.name, place.shard) for what in faults]
    return total


def _summarize(rows: int, status: Counter[str]) -> str:
    return f"{rows} rows ({', '.join(f'{count} {name}' for name, count in sorted(status.items()))})"


def _shard_folders(run_dir: RunDir, node: Node) -> Iterator[tuple[str, str, str | None]]:
    """(folder, source, expected fingerprint) of every folder to which a node commits shards.

    The fingerprint is None if the node has no record.
    """
    record = run_dir.ledger.latest(node.name)
    corpora = {} if record is None else record.inputs.get("sources", {})
    of_corpus = {source: fingerprint(inputs) for source, inputs in corpora.items()}
    fetch = run_dir.nodes.get("fetch")
    for source in node.sources:
        if not node.kind.judges:
            yield corpus_folder(source), source, of_corpus.get(source)
            continue
        of_round = None if record is None else record.fingerprint
        yield candidates_folder(node.round, source), source, of_round
        if node.round == 1 and (fetch is None or source not in fetch.sources):
            yield corpus_folder(source), source, of_corpus.get(source)


def _expected_rows(
    check: _Check, source: str, *, must_exist: bool
) -> tuple[dict[int, int | None] | None, list[str]]:
    """Read the index of a source's manifest.

    Args:
        must_exist: whether shards are committed, so that the absence of the index is a fault.

    Returns:
        Shard → rows, as in `ShardFolder.rows`, empty if there is no index yet; and what is wrong with the
        index.
    """
    folder, run_dir = index_folder(source), check.run_dir
    data = run_dir.store.find(f"{folder}/{INDEX_RECORD}")
    if data is None:
        return (None, ["missing"]) if must_exist else ({}, [])
    try:
        index: Index = decode_index(data)
    except DECODE_ERRORS as error:
        return None, [f"damaged ({error})"]
    parts = (check.files.find_fault(f"{folder}/{INDEX_PARTS}/{part.name}", part) for part in index.parts)
    faults = [fault for fault in parts if fault is not None]
    if index.has_tars:
        return dict.fromkeys(range(index.shards)), faults
    size = run_dir.config.sources[source].rows.shard_size
    return {s: min(size, index.rows - s * size) for s in range(index.shards)}, faults


def _verify_listed(check: _Check, node: Node) -> None:
    """Check the files that a node's own record lists."""
    found = check.found
    try:
        files = node.kind.listed_files(check.run_dir.store, node)
    except UserError as error:
        found.problems.append(Problem(node.kind.required_files(node)[0], f"damaged ({error})", node.name))
        return
    faults = map_ahead(lambda name: check.files.find_fault(name, files[name]), files, THREADS)
    for (name, file), fault in zip(files.items(), faults, strict=True):
        found.shards += 1
        if fault is not None:
            found.problems.append(Problem(name.rpartition("/")[0], fault, node.name))
        else:
            found.bytes += file.bytes


def _verify_model(check: _Check, node: Node) -> None:
    """Check the files of a checkpoint that a node has trained."""
    folder, store, found = model_folder(node.name), check.run_dir.store, check.found
    try:
        provenance: Any = store.read_json(provenance_file(node.name))
        files = [FileEntry(file["name"], file["bytes"], file["sha256"]) for file in provenance["files"]]
    except (*DECODE_ERRORS, FileNotFoundError, KeyError, TypeError) as error:
        what = f"provenance.json is missing or damaged ({type(error).__name__}: {error})"
        found.problems.append(Problem(folder, what, node.name))
        return
    for file in files:
        fault = check.files.find_fault(f"{folder}/{file.name}", file)
        if fault is not None:
            found.problems.append(Problem(folder, fault, node.name))
        else:
            found.bytes += file.bytes
