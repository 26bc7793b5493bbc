"""Whether a run directory holds what its records say: every file hashed again, every row accounted for."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from pipeline.config import Config
from pipeline.ledger import Ledger, fingerprint
from pipeline.plan import Node, downstream, outputs_of
from stages.manifest import read_slice
from stages.store import Store, sha256

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

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass
class Verification:
    """What was looked at and what was found."""

    shards: int = 0
    rows: int = 0
    bytes: int = 0
    unfinished: int = 0
    """Shards and models without a record: nobody counts them, and the run makes them when it goes on."""
    problems: list[Problem] = field(default_factory=list)


def verify_run(config: Config, store: Store, ledger: Ledger, nodes: dict[str, Node]) -> Verification:
    """Compare every record of a run with its files.

    For shards: each listed file is there with its sha256; the rows of the Parquet file, the pictures of the tar and
    the verdicts of the candidates are as many as the record says; rows read = rows by status; as many rows as the
    manifest's slice; made with the settings of their node. For trained models: each file has its sha256. For nodes that
    are done: no shard is missing, and their totals are the sums of their records. Nothing outside the run directory is
    looked at: checkpoints and manifests may be out of reach.
    """
    found = Verification()
    for node in nodes.values():
        if node.kind in ("fetch", "bootstrap"):
            _verify_shards(config, store, ledger, nodes, node, found)
        elif node.kind in ("pretrain", "captioner", "filter"):
            _verify_model(store, ledger, node, found)
        elif node.kind == "report" and ledger.node(node.name) is not None:
            for name in REPORT_FILES:
                if not store.exists(f"reports/{node.round}/{name}"):
                    found.problems.append(Problem(f"reports/{node.round}/{name}", "missing", node.name))
    return found


def repair(store: Store, ledger: Ledger, nodes: dict[str, Node], problems: list[Problem]) -> list[str]:
    """Take back the records of everything that is damaged, so that the run makes exactly that again.

    Shards are taken back one by one; of a corpus shard the candidates too, since its pictures may come back
    otherwise. Reports are made anew. Trainings stay: they were right when they were made.

    Returns:
        Names of the nodes that have work again.
    """
    again: set[str] = set()
    for problem in problems:
        if problem.shard is None and nodes[problem.node].kind in ("fetch", "bootstrap"):
            ledger.reopen(
                problem.node
            )  # only its totals are wrong: they are counted again, no shard is touched
            again.add(problem.node)
            continue
        if problem.shard is None:
            ledger.forget(problem.node, outputs_of(nodes[problem.node]))
            again.add(problem.node)
            continue
        for name in [problem.node, *_later_rounds(nodes, problem)]:
            for folder in _folders(nodes[name], problem.place):
                store.remove_file(f"{folder}/{problem.shard:06d}.json")
            ledger.reopen(name)
            again.add(name)
    for name in sorted(again):
        for later in downstream(nodes, name):
            if nodes[later].kind == "report" and ledger.node(later) is not None:
                ledger.forget(later, outputs_of(nodes[later]))
                again.add(later)
    return [name for name in nodes if name in again]


def _later_rounds(nodes: dict[str, Node], problem: Problem) -> list[str]:
    """Bootstraps whose candidates were made of a damaged corpus shard."""
    if not problem.place.startswith("corpus/"):
        return []
    source = problem.place.split("/")[1]
    return [name for name, node in nodes.items() if node.kind == "bootstrap" and source in node.sources]


def _folders(node: Node, place: str) -> list[str]:
    """Folders in which a node keeps records of the shards of the source that `place` belongs to."""
    source = place.split("/")[-2]
    if node.kind == "fetch":
        return [f"corpus/{source}"]
    # A bootstrap that fetches keeps both; the corpus record goes only if the corpus is what is damaged.
    return [f"rounds/{node.round}/{source}"] + ([f"corpus/{source}"] if place.startswith("corpus/") else [])


def _verify_shards(
    config: Config, store: Store, ledger: Ledger, nodes: dict[str, Node], node: Node, found: Verification
) -> None:
    total = 0
    for folder, source, print_ in _shard_folders(ledger, nodes, node):
        committed = ledger.committed(folder)
        expected = _expected_rows(config, store, source)
        missing = sorted(set(expected) - set(committed))
        done = ledger.node(node.name)
        if done is None:
            found.unfinished += len(missing)
        else:
            found.problems += [
                Problem(f"{folder}/{s:06d}", "no record, though the node is done", node.name, s)
                for s in missing
            ]
        with ThreadPoolExecutor(THREADS) as pool:
            checks = pool.map(lambda shard, folder=folder: _check_shard(store, folder, shard), committed)
            for shard, (record, faults) in zip(committed, checks, strict=True):
                rows = record.get("rows", {}).get("read", 0)
                found.shards, found.rows = found.shards + 1, found.rows + rows
                found.bytes += sum(file["bytes"] for file in record.get("files", ()))
                total += rows if folder in outputs_of(node) else 0
                if expected.get(shard) not in (None, rows):
                    faults.append(f"{rows} rows, but the manifest's slice has {expected[shard]}")
                if shard not in expected:
                    faults.append("no such slice in the manifest's index")
                if print_ is not None and record.get("fingerprint") != print_:
                    faults.append(f"made with other settings than {node.name}")
                place = f"{folder}/{shard:06d}"
                found.problems += [Problem(place, what, node.name, shard) for what in faults]
    record = ledger.node(node.name)
    if record is not None and record["counts"]["rows"] != total and not found.problems:
        what = f"{record['counts']['rows']} rows, its shards' records say {total}"
        found.problems.append(Problem(f"nodes/{node.name}.json", what, node.name))


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


def _expected_rows(config: Config, store: Store, source: str) -> dict[int, int | None]:
    """Rows of every slice of a source; None where only the tar knows; empty before the manifest was cut."""
    if not store.exists(f"corpus/{source}/index/index.json"):
        return {}
    index = store.read_json(f"corpus/{source}/index/index.json")
    shards, rows, size = index["shards"], index["rows"], config.sources[source].rows.shard_size
    if read_slice(store / f"corpus/{source}/index", 0)["tar"][0].as_py() is not None:  # a shard per tar
        return dict.fromkeys(range(shards))
    return {s: min(size, rows - s * size) for s in range(shards)}


def _check_shard(store: Store, folder: str, shard: int) -> tuple[dict[str, Any], list[str]]:
    """A shard's record and what is wrong with the shard."""
    try:
        record: dict[str, Any] = store.read_json(f"{folder}/{shard:06d}.json")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return {}, [f"the record is no JSON ({error})"]
    if not {"rows", "files"} <= set(record):
        return {}, ["the record lacks its rows or files"]
    faults: list[str] = []
    status = record["rows"]["status"]
    if record["rows"]["read"] != sum(status.values()):
        faults.append(f"{record['rows']['read']} rows read, {sum(status.values())} accounted for")
    for file in record["files"]:
        data = _read(store, f"{folder}/{file['name']}")
        if data is None:
            faults.append(f"{file['name']} is missing")
        elif len(data) != file["bytes"] or sha256(data) != file["sha256"]:
            faults.append(
                f"{file['name']} is not what was written: {len(data)} bytes of {file['bytes']}, or others"
            )
        else:
            faults += _check_content(file["name"], data, record)
    return record, faults


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
    if not store.exists(f"{folder}/provenance.json"):
        found.problems.append(Problem(folder, "provenance.json is missing", node.name))
        return
    for file in store.read_json(f"{folder}/provenance.json")["files"]:
        data = _read(store, f"{folder}/{file['name']}")
        if data is None:
            found.problems.append(Problem(f"{folder}/{file['name']}", "missing", node.name))
            continue
        found.bytes += len(data)
        if sha256(data) != file["sha256"]:
            found.problems.append(Problem(f"{folder}/{file['name']}", "not what was written", node.name))


def _read(store: Store, name: str) -> bytes | None:
    try:
        return store.read(name)
    except FileNotFoundError:
        return None
