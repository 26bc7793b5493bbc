"""Whether a run directory holds what its records say: every file hashed again, every row accounted for."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.plan import Node
from capfilt.pipeline.rundir.ledger import NO_JSON, Ledger, fingerprint
from capfilt.pipeline.rundir.outputs import outputs_of
from capfilt.stages.manifest.index import index_of
from capfilt.stages.storage.store import Store, sha256

REPORT_FILES = ("metrics.json", "report.html", "noise.parquet", "statuses.parquet", "hosts.parquet")

THREADS = 8
"""Shards read at once; each is in memory whole."""


@dataclass(frozen=True)
class Problem:
    """One difference between a record and what is there."""

    place: str
    """File or shard, relative to the run directory."""
    what: str
    node: str
    """The node that made it, and makes it again."""
    shard: int | None = None
    """None: the node's output is no shard."""
    lost: bool = False
    """The file at this place is of no use any more: what it said is found out again."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass
class Verification:
    """What was looked at and what was found."""

    shards: int = 0
    rows: int = 0
    bytes: int = 0
    unfinished: int = 0
    """Shards without a record, and other nodes that are not done: the run makes them when it goes on."""
    problems: list[Problem] = field(default_factory=list)


def verify_run(config: Config, store: Store, ledger: Ledger, nodes: dict[str, Node]) -> Verification:
    """Compare every record of a run with its files.

    For shards: each listed file is there with its sha256; the rows of the Parquet file, the pictures of the tar and
    the verdicts of the candidates are as many as the record says; rows read = rows by status; as many rows as the
    manifest's slice; made with the settings of their node. For trained models and the manifest's index: each file has
    its sha256. For nodes that are done: no shard is missing, and their totals are the sums of their records. Of reports
    only that they are there. Nothing outside the run directory is looked at: checkpoints and manifests may be out of
    reach.
    """
    found = Verification(problems=_damaged_records(store, nodes))
    if found.problems:  # what else there is cannot be told before these are mended
        return found
    for node in nodes.values():
        if node.kind in ("fetch", "bootstrap"):
            _verify_shards(config, store, ledger, nodes, node, found)
        elif node.kind in ("pretrain", "captioner", "filter"):
            _verify_model(store, ledger, node, found)
        elif ledger.node(node.name) is None:
            found.unfinished += 1
        elif node.kind == "report":
            for name in REPORT_FILES:
                if not store.exists(f"reports/{node.round}/{name}"):
                    found.problems.append(Problem(f"reports/{node.round}/{name}", "missing", node.name))
    return found


def _damaged_records(store: Store, nodes: dict[str, Node]) -> list[Problem]:
    """Records of nodes that cannot be read."""
    damaged = []
    for name in nodes:
        for place in (f"nodes/{name}.json", f"nodes/{name}.started.json"):
            try:
                record = store.find_json(place)
            except NO_JSON as error:
                damaged.append(Problem(place, f"no JSON ({error})", name, lost=True))
                continue
            if record is not None and not {"fingerprint", "inputs"} <= set(record):
                damaged.append(Problem(place, "lacks its fingerprint or inputs", name, lost=True))
    return damaged


def _verify_shards(
    config: Config, store: Store, ledger: Ledger, nodes: dict[str, Node], node: Node, found: Verification
) -> None:
    total: Counter[str] = Counter()
    before, unfinished = len(found.problems), 0
    done = ledger.node(node.name)
    for folder, source, print_ in _shard_folders(ledger, nodes, node):
        committed = ledger.committed(folder)
        expected, faults_of_index = _expected_rows(config, store, source, bool(committed))
        if folder.startswith("corpus/"):
            place = f"{folder}/index/index.json"
            found.problems += [Problem(place, what, node.name, lost=True) for what in faults_of_index]
        missing = sorted(set(expected or ()) - set(committed))
        if done is None:
            unfinished += len(missing)
        else:
            found.problems += [
                Problem(f"{folder}/{s:06d}", "no record, though the node is done", node.name, s)
                for s in missing
            ]
        with ThreadPoolExecutor(THREADS) as pool:
            checks = pool.map(lambda shard, folder=folder: _check_shard(store, folder, shard), committed)
            for shard, (record, faults) in zip(committed, checks, strict=True):
                found.shards += 1
                if record is not None:
                    rows = record["rows"]["read"]
                    found.rows += rows
                    found.bytes += sum(file["bytes"] for file in record["files"])
                    total.update(record["rows"]["status"] if folder in outputs_of(node) else {})
                    faults += _faults_of_place(record, shard, rows, expected, print_, node.name)
                place = f"{folder}/{shard:06d}"
                found.problems += [Problem(place, what, node.name, shard) for what in faults]
    if done is None:
        found.unfinished += max(unfinished, 1)
    if done is None or len(found.problems) > before:
        return
    said = Counter(done["counts"]["status"])
    if done["counts"]["rows"] != total.total() or said != total:
        what = f"{_summary(done['counts']['rows'], said)}; its shards' records say {_summary(total.total(), total)}"
        found.problems.append(Problem(f"nodes/{node.name}.json", what, node.name))


def _summary(rows: int, status: Counter[str]) -> str:
    return f"{rows} rows ({', '.join(f'{count} {name}' for name, count in sorted(status.items()))})"


def _faults_of_place(
    record: dict[str, Any],
    shard: int,
    rows: int,
    expected: dict[int, int | None] | None,
    print_: str | None,
    node: str,
) -> list[str]:
    """What is wrong with a shard's record, for the place where it stands."""
    faults = []
    if expected is not None and expected.get(shard) not in (None, rows):
        faults.append(f"{rows} rows, but the manifest's slice has {expected[shard]}")
    if expected is not None and shard not in expected:
        faults.append("no such slice in the manifest's index")
    if print_ is not None and record.get("fingerprint") != print_:
        faults.append(f"made with other settings than {node}")
    return faults


def _shard_folders(
    ledger: Ledger, nodes: dict[str, Node], node: Node
) -> Iterator[tuple[str, str, str | None]]:
    """(folder, source, fingerprint its records carry) of everything a node commits by shard; no fingerprint where the
    node is to begin anew (`--fresh`) and its shards are another's."""
    begun = ledger.begun(node.name)
    corpora = {} if begun is None else begun["inputs"]["sources"]
    of_corpus = {source: fingerprint(inputs) for source, inputs in corpora.items()}
    fetch = nodes.get("fetch")
    for source in node.sources:
        if node.kind == "fetch":
            yield f"corpus/{source}", source, of_corpus.get(source)
            continue
        yield f"rounds/{node.round}/{source}", source, None if begun is None else begun["fingerprint"]
        if node.round == 1 and (fetch is None or source not in fetch.sources):
            yield f"corpus/{source}", source, of_corpus.get(source)


def _expected_rows(
    config: Config, store: Store, source: str, committed: bool
) -> tuple[dict[int, int | None] | None, list[str]]:
    """Rows of every slice of a source, None where only a tar knows; and what is wrong with its index.

    Args:
        committed: shards are there, so the index has to be.

    Returns:
        No slices before the manifest was cut; None for all of them where the index cannot tell.
    """
    folder = f"corpus/{source}/index"
    try:
        known = store.find_json(f"{folder}/index.json")
        index = None if known is None else index_of(known)
    except NO_JSON as error:
        return None, [f"no JSON ({error})"]
    except (KeyError, TypeError):
        return None, ["lacks what an index says"]
    if index is None:
        return (None, ["missing"]) if committed else ({}, [])
    parts = [_file_at(store, folder, part) for part in index.parts]
    faults = [fault for _, fault in parts if fault is not None]
    if index.of_tars:
        return dict.fromkeys(range(index.shards)), faults
    size = config.sources[source].rows.shard_size
    return {s: min(size, index.rows - s * size) for s in range(index.shards)}, faults


def _check_shard(store: Store, folder: str, shard: int) -> tuple[dict[str, Any] | None, list[str]]:
    """A shard's record, None if it is damaged, and what is wrong with the shard."""
    try:
        record: dict[str, Any] = store.read_json(f"{folder}/{shard:06d}.json")
    except NO_JSON as error:
        return None, [f"the record is no JSON ({error})"]
    except OSError as error:  # of a disk; a store that is away ends the command
        return None, [f"the record cannot be read ({error.strerror or error})"]
    try:
        return record, _faults_of_record(store, folder, record)
    except (KeyError, TypeError, AttributeError) as error:
        return None, [f"the record is damaged ({type(error).__name__}: {error})"]


def _faults_of_record(store: Store, folder: str, record: dict[str, Any]) -> list[str]:
    """Whether a shard's counts add up and its files are what its record says."""
    faults: list[str] = []
    read, accounted = int(record["rows"]["read"]), sum(map(int, record["rows"]["status"].values()))
    if read != accounted:
        faults.append(f"{read} rows read, {accounted} accounted for")
    for file in record["files"]:
        data, fault = _file_at(store, folder, file)
        faults += [fault] if data is None and fault else _check_content(file["name"], data or b"", record)
    return faults


def _file_at(store: Store, folder: str, file: dict[str, Any]) -> tuple[bytes | None, str | None]:
    """Content of a file of which a record tells name, bytes and sha256; or None and what is wrong with it."""
    try:
        data = store.read(f"{folder}/{file['name']}")
    except FileNotFoundError:
        return None, f"{file['name']} is missing"
    except OSError as error:  # of a disk; a store that is away ends the command
        return None, f"{file['name']} cannot be read ({error.strerror or error})"
    if len(data) != file["bytes"] or sha256(data) != file["sha256"]:
        return (
            None,
            f"{file['name']} is not what was written: {len(data)} bytes of {file['bytes']}, or others",
        )
    return data, None


def _check_content(name: str, data: bytes, record: dict[str, Any]) -> list[str]:
    """Whether an undamaged file holds as much as its record says."""
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            pictures = sum(member.name.endswith(".json") for member in tar)
        due = record["rows"]["status"].get("success", 0)
        return [] if pictures == due else [f"{name} holds {pictures} pictures, the record says {due}"]
    rows = pq.read_metadata(io.BytesIO(data)).num_rows
    candidates = record.get("candidates")
    due = (
        record["rows"]["read"]
        if candidates is None
        else sum(sum(verdicts.values()) for verdicts in candidates.values())
    )
    return [] if rows == due else [f"{name} holds {rows} rows, the record says {due}"]


def _verify_model(store: Store, ledger: Ledger, node: Node, found: Verification) -> None:
    folder = f"models/{node.name}"
    if ledger.node(node.name) is None:
        found.unfinished += 1
        return
    try:
        files = [dict(file) for file in (store.find_json(f"{folder}/provenance.json") or {})["files"]]
    except (*NO_JSON, KeyError, TypeError) as error:
        what = f"provenance.json is missing or damaged ({type(error).__name__}: {error})"
        found.problems.append(Problem(folder, what, node.name))
        return
    for file in files:
        data, fault = _file_at(store, folder, file)
        if fault is not None:
            found.problems.append(Problem(folder, fault, node.name))
        found.bytes += len(data or b"")
