"""Whether a run directory holds what its records say: every file is hashed again, every row accounted for."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow.parquet as pq

from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.ledger import NodeRecord, StartRecord, fingerprint
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.manifest.index import Index, decode_index
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord, decode_commit
from capfilt.stages.storage.layout import (
    INDEX_RECORD,
    ShardFiles,
    candidates_folder,
    corpus_folder,
    index_folder,
    model_folder,
    node_record,
    provenance_file,
    report_folder,
    start_record,
)
from capfilt.stages.storage.store import DAMAGED, FileEntry, Store, sha256

REPORT_FILES = ("metrics.json", "report.html", "noise.parquet", "statuses.parquet", "hosts.parquet")

THREADS = 8
"""Shards that are read at the same time; each is in memory as a whole."""


@dataclass(frozen=True)
class Problem:
    """One difference between a record and what is there."""

    place: str
    """File or shard, relative to the run directory."""
    what: str
    node: str
    """The node that made it, and makes it again."""
    shard: int | None = None
    """None: the node's output is not a shard."""
    lost: bool = False
    """The file at this place is useless: repair removes it, and the run derives its content again."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass
class Verification:
    """What was checked and what was found."""

    shards: int = 0
    rows: int = 0
    bytes: int = 0
    unfinished: int = 0
    """Shards without a record, and other nodes that are not done: the run makes them when it goes on."""
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class ShardFolder:
    """A folder of shards, and what its records must say."""

    folder: str
    source: str
    fingerprint: str | None
    """None where the node starts over (`--fresh`) and the shards are of its previous settings."""
    rows: Mapping[int, int | None] | None
    """Rows of each slice of the manifest, None where only an image tar knows; None before the manifest was cut."""


def verify_run(run_dir: RunDir) -> Verification:
    """Compare every record of a run with its files.

    Shards: each listed file is there with its sha256; the rows of the Parquet file, the images of the tar and the
    verdicts of the candidates are as many as the record says; rows read = rows by status; as many rows as the
    manifest's slice; made with the settings of their node. Trained models and the manifest's index: each file has its
    sha256. Nodes that are done: no shard is missing, and their totals are the sums of their records. Reports: the files
    exist. Nothing outside the run directory is read: checkpoints and manifests may be out of reach.
    """
    found = Verification(problems=_damaged_records(run_dir))
    if found.problems:  # the rest can be checked only after these are repaired
        return found
    for node in run_dir.nodes.values():
        if node.kind.streams_shards:
            _verify_shards(run_dir, node, found)
        elif run_dir.ledger.node(node.name) is None:
            found.unfinished += 1
        elif node.kind.trains:
            _verify_model(run_dir.store, node, found)
        elif node.kind.name == "report":
            places = [f"{report_folder(node.round)}/{name}" for name in REPORT_FILES]
            missing = [place for place in places if not run_dir.store.exists(place)]
            found.problems += [Problem(place, "missing", node.name) for place in missing]
    return found


def _damaged_records(run_dir: RunDir) -> list[Problem]:
    """Records of nodes that cannot be read."""
    damaged = []
    for name in run_dir.nodes:
        for place, form in ((node_record(name), NodeRecord), (start_record(name), StartRecord)):
            try:
                data = run_dir.store.get(place)
                if data is not None:
                    msgspec.json.decode(data, type=form)
            except DAMAGED as error:
                damaged.append(Problem(place, f"damaged ({error})", name, lost=True))
    return damaged


def _verify_shards(run_dir: RunDir, node: Node, found: Verification) -> None:
    total: Counter[str] = Counter()
    before, unfinished = len(found.problems), 0
    done = run_dir.ledger.node(node.name)
    for folder, source, expected_fingerprint in _shard_folders(run_dir, node):
        committed = run_dir.ledger.committed(folder)
        rows, index_faults = _expected_rows(run_dir, source, must_exist=bool(committed))
        if folder == corpus_folder(source):
            place = f"{index_folder(source)}/{INDEX_RECORD}"
            found.problems += [Problem(place, what, node.name, lost=True) for what in index_faults]
        expected = ShardFolder(folder, source, expected_fingerprint, rows)
        missing = sorted(set(rows or ()) - set(committed))
        if done is None:
            unfinished += len(missing)
        else:
            found.problems += [
                Problem(ShardFiles(folder, s).stem, "no record, though the node is done", node.name, s)
                for s in missing
            ]
        status = _verify_folder(run_dir.store, node, expected, committed, found)
        total.update(status if folder in node.outputs else {})
    if done is None:
        found.unfinished += max(unfinished, 1)
    if done is None or len(found.problems) > before:
        return
    recorded = Counter(done.counts["status"])
    if done.counts["rows"] != total.total() or recorded != total:
        what = (
            f"{_summarize(done.counts['rows'], recorded)}; its shards' records say "
            f"{_summarize(total.total(), total)}"
        )
        found.problems.append(Problem(node_record(node.name), what, node.name))


def _verify_folder(
    store: Store, node: Node, expected: ShardFolder, committed: list[int], found: Verification
) -> Counter[str]:
    """Check every committed shard of a folder; rows by status, of the records that can be read."""
    total: Counter[str] = Counter()
    places = [ShardFiles(expected.folder, shard) for shard in committed]
    with ThreadPoolExecutor(THREADS) as pool:
        checks = pool.map(lambda place: _check_shard(store, place), places)
        for place, (record, faults) in zip(places, checks, strict=True):
            found.shards += 1
            if record is not None:
                found.rows += record.rows.read
                found.bytes += sum(file.bytes for file in record.files)
                total.update(record.rows.status)
                faults += _check_against(expected, record, place.shard, node.name)
            found.problems += [Problem(place.stem, what, node.name, place.shard) for what in faults]
    return total


def _summarize(rows: int, status: Counter[str]) -> str:
    return f"{rows} rows ({', '.join(f'{count} {name}' for name, count in sorted(status.items()))})"


def _check_against(expected: ShardFolder, record: CommitRecord, shard: int, node: str) -> list[str]:
    """What is wrong with the record of this shard in its folder."""
    faults = []
    rows = expected.rows
    if rows is not None and rows.get(shard) not in (None, record.rows.read):
        faults.append(f"{record.rows.read} rows, but the manifest's slice has {rows[shard]}")
    if rows is not None and shard not in rows:
        faults.append("no such slice in the manifest's index")
    if expected.fingerprint is not None and record.fingerprint != expected.fingerprint:
        faults.append(f"made with other settings than {node}")
    return faults


def _shard_folders(run_dir: RunDir, node: Node) -> Iterator[tuple[str, str, str | None]]:
    """(folder, source, fingerprint of its records) of everything that a node commits by shard; no fingerprint where the
    node starts over (`--fresh`) and its shards are of its previous settings."""
    begun = run_dir.ledger.begun(node.name)
    corpora = {} if begun is None else begun.inputs["sources"]
    of_corpus = {source: fingerprint(inputs) for source, inputs in corpora.items()}
    fetch = run_dir.nodes.get("fetch")
    for source in node.sources:
        if not node.kind.judges:
            yield corpus_folder(source), source, of_corpus.get(source)
            continue
        of_round = None if begun is None else begun.fingerprint
        yield candidates_folder(node.round, source), source, of_round
        if node.round == 1 and (fetch is None or source not in fetch.sources):
            yield corpus_folder(source), source, of_corpus.get(source)


def _expected_rows(
    run_dir: RunDir, source: str, *, must_exist: bool
) -> tuple[dict[int, int | None] | None, list[str]]:
    """Rows of every slice of a source (None for a slice that is an image tar), and what is wrong with its index.

    Args:
        must_exist: shards are committed, so the index has to be there.

    Returns:
        An empty mapping before the manifest was cut; None where the index cannot be read.
    """
    folder = index_folder(source)
    data = run_dir.store.get(f"{folder}/{INDEX_RECORD}")
    if data is None:
        return (None, ["missing"]) if must_exist else ({}, [])
    try:
        index: Index = decode_index(data)
    except DAMAGED as error:
        return None, [f"damaged ({error})"]
    parts = [_read_file(run_dir.store, folder, part) for part in index.parts]
    faults = [fault for _, fault in parts if fault is not None]
    if index.of_tars:
        return dict.fromkeys(range(index.shards)), faults
    size = run_dir.config.sources[source].rows.shard_size
    return {s: min(size, index.rows - s * size) for s in range(index.shards)}, faults


def _check_shard(store: Store, place: ShardFiles) -> tuple[CommitRecord | None, list[str]]:
    """A shard's record, None if it is damaged, and what is wrong with the shard."""
    try:
        record = decode_commit(store.read(place.record))
    except DAMAGED as error:
        return None, [f"the record is damaged ({error})"]
    except OSError as error:  # of a disk; an unreachable store ends the command
        return None, [f"the record cannot be read ({error.strerror or error})"]
    faults: list[str] = []
    accounted = sum(record.rows.status.values())
    if record.rows.read != accounted:
        faults.append(f"{record.rows.read} rows read, {accounted} accounted for")
    for file in record.files:
        data, fault = _read_file(store, place.folder, file)
        faults += [fault] if data is None and fault else _check_content(file.name, data or b"", record)
    return record, faults


def _read_file(store: Store, folder: str, file: FileEntry) -> tuple[bytes | None, str | None]:
    """Content of a file that a record lists, or None and what is wrong with it."""
    try:
        data = store.read(f"{folder}/{file.name}")
    except FileNotFoundError:
        return None, f"{file.name} is missing"
    except OSError as error:  # of a disk; an unreachable store ends the command
        return None, f"{file.name} cannot be read ({error.strerror or error})"
    if len(data) != file.bytes or sha256(data) != file.sha256:
        return (
            None,
            f"{file.name} is not what was written: {len(data)} bytes, expected {file.bytes}, or others",
        )
    return data, None


def _check_content(name: str, data: bytes, record: CommitRecord) -> list[str]:
    """Whether an undamaged file holds as much as its record says."""
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            images = sum(member.name.endswith(".json") for member in tar)
        expected = record.rows.status.get("success", 0)
        return [] if images == expected else [f"{name} holds {images} images, the record says {expected}"]
    rows = pq.read_metadata(io.BytesIO(data)).num_rows
    if isinstance(record, CandidatesRecord):
        expected = sum(sum(verdicts.values()) for verdicts in record.candidates.values())
    else:
        expected = record.rows.read
    return [] if rows == expected else [f"{name} holds {rows} rows, the record says {expected}"]


def _verify_model(store: Store, node: Node, found: Verification) -> None:
    folder = model_folder(node.name)
    try:
        provenance: Any = store.read_json(provenance_file(node.name))
        files = [FileEntry(file["name"], file["bytes"], file["sha256"]) for file in provenance["files"]]
    except (*DAMAGED, FileNotFoundError, KeyError, TypeError) as error:
        what = f"provenance.json is missing or damaged ({type(error).__name__}: {error})"
        found.problems.append(Problem(folder, what, node.name))
        return
    for file in files:
        data, fault = _read_file(store, folder, file)
        if fault is not None:
            found.problems.append(Problem(folder, fault, node.name))
        found.bytes += len(data or b"")
