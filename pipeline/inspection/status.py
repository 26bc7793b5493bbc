"""What a run directory says about its run, whoever works in it: no lease is taken, and no Ray is asked.

The number of requests does not grow with the run: a listing for each source of each unfinished node, and at
most `SAMPLE` commit records.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from capfilt.pipeline.console.throughput import MIN_SHARDS, WINDOW_SECONDS
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.lease import LAPSE_SECONDS, read_newest
from capfilt.pipeline.rundir.ledger import NodeRecord, StartRecord
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.pipeline.submission.record import JobRecord, find_job
from capfilt.stages.manifest.index import read_index
from capfilt.stages.shards.commit import find_commit
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import (
    LEASE,
    NODES,
    RECORD_SUFFIX,
    STOP_FILE,
    ShardFiles,
    candidates_folder,
    corpus_folder,
    failure_log,
    index_folder,
    lease_file,
    log_folder,
    records_folder,
    shard_of_record,
)
from capfilt.stages.storage.listing import modification_times

SAMPLE = 200
"""Commit records that are read for the statuses of an unfinished node: the newest."""
NodeState = Literal["done", "running", "interrupted", "failed", "stale", "waiting"]


@dataclass(kw_only=True)
class NodeStatus:
    """How far a node is."""

    node: str
    state: NodeState
    seconds: float | None = None
    """Of a node that is done: how long its last attempt took."""
    done: int | None = None
    total: int | None = None
    """Shards or steps; None where nothing is counted, or the number is not known yet."""
    unit: str = "shards"
    per_minute: float | None = None
    """Shards or steps a minute, of late."""
    left_seconds: float | None = None
    """Time left at this speed."""
    status: dict[str, int] = field(default_factory=dict)
    """Rows by status: all of a node that is done, else those of the newest shards."""
    sampled_shards: int | None = None
    """Number of shards whose rows `status` counts; None: all."""
    error: str | None = None
    """Last line of the trace of the error that ended the node."""


@dataclass(kw_only=True)
class LeaseStatus:
    """The process that owns the run directory."""

    host: str
    pid: int
    since: str
    beats: int
    heartbeat_seconds: float
    """Seconds since its last heartbeat, by the clocks of the store and of this machine."""
    alive: bool


@dataclass(kw_only=True)
class RunStatus:
    """What is known about a run."""

    run: str
    nodes: list[NodeStatus]
    lease: LeaseStatus | None
    stopping: bool
    """A signal has asked the run to stop."""
    job: JobRecord | None = None
    """The last Ray job that has worked on the run."""

    @property
    def is_at_work(self) -> bool:
        """Whether a process works in the directory."""
        return self.lease is not None and self.lease.alive


def read_status(run_dir: RunDir, now: float | None = None) -> RunStatus:
    """Look at a run directory.

    Args:
        now: Unix time in seconds; None: that of this machine.

    Raises:
        StoreError: the store cannot be reached.
        LedgerError: a record is damaged.
    """
    now = time.time() if now is None else now
    lease = _read_lease(run_dir, now)
    names = set(run_dir.store.list(NODES))
    done = {n: run_dir.ledger.node(n) for n in run_dir.nodes if f"{n}{RECORD_SUFFIX}" in names}
    at_work = lease is not None and lease.alive
    nodes = [_read_node(run_dir, node, names, done, at_work, now) for node in run_dir.nodes.values()]
    return RunStatus(
        run=run_dir.store.url,
        nodes=nodes,
        lease=lease,
        stopping=at_work and run_dir.store.find(STOP_FILE) is not None,
        job=find_job(run_dir.store),
    )


def _read_lease(run_dir: RunDir, now: float) -> LeaseStatus | None:
    times = modification_times(run_dir.store, LEASE, RECORD_SUFFIX)
    found = read_newest(run_dir.store)
    if found is None:
        return None
    number, owner, is_dead = found
    written = times.get(lease_file(number).rpartition("/")[2], now)
    age = max(0.0, now - written)
    return LeaseStatus(
        host=str(owner.get("host", "unknown")),
        pid=owner.get("pid", 0),
        since=str(owner.get("since", "unknown")),
        beats=owner.get("beats", 0),
        heartbeat_seconds=round(age, 1),
        alive=not is_dead and age < LAPSE_SECONDS,
    )


def _read_node(
    run_dir: RunDir,
    node: Node,
    names: set[str],
    done: Mapping[str, NodeRecord | None],
    at_work: bool,
    now: float,
) -> NodeStatus:
    record = done.get(node.name)
    if record is not None:
        state: NodeState = "stale" if _is_stale(node, record, done) else "done"
        status = record.counts.get("status", {})
        return NodeStatus(node=node.name, state=state, seconds=record.seconds, status=dict(status))
    has_log = failure_log(node.name).rpartition("/")[2] in names
    if f"{node.name}.started.json" not in names and not has_log:
        return NodeStatus(node=node.name, state="waiting")
    state = "running" if at_work and _needs_are_done(node, done) else "failed" if has_log else "interrupted"
    found = NodeStatus(node=node.name, state=state)
    if has_log and state != "running":
        found.error = _last_line(run_dir, node.name)
    if node.kind.streams_shards:
        _count_shards(run_dir, node, found, now)
    elif node.kind.trains:
        _count_steps(run_dir, node, found)
    if state != "running":
        found.per_minute = found.left_seconds = None
    return found


def _needs_are_done(node: Node, done: Mapping[str, object]) -> bool:
    return all(need in done for need in node.needs)


def _is_stale(node: Node, record: StartRecord, done: Mapping[str, NodeRecord | None]) -> bool:
    """Whether a node that the node was made from is not done, or was made again with other inputs."""
    upstream = record.inputs.get("upstream", {})
    for need in node.needs:
        now = done.get(need)
        if now is None or (need in upstream and upstream[need] != now.fingerprint):
            return True
    return False


def _count_shards(run_dir: RunDir, node: Node, found: NodeStatus, now: float) -> None:
    """Count the shards of a node by the listings of its records, and their speed by the times of these."""
    times: dict[tuple[str, int], float] = {}
    total: int | None = 0
    for source in node.sources:
        folder = candidates_folder(node.round, source) if node.kind.judges else corpus_folder(source)
        for name, written in modification_times(run_dir.store, records_folder(folder), RECORD_SUFFIX).items():
            if (shard := shard_of_record(name)) is not None:
                times[folder, shard] = written
        index = read_index(run_dir.store / index_folder(source))
        total = None if index is None or total is None else total + index.shards
    found.done, found.total = len(times), total
    newest = sorted(times, key=lambda place: -times[place])
    found.per_minute = speed(sorted(times.values()), now)
    if found.per_minute and total is not None:
        found.left_seconds = round((total - len(times)) / found.per_minute * 60)
    status: Counter[str] = Counter()
    for folder, shard in newest[:SAMPLE]:
        if (record := find_commit(run_dir.store, ShardFiles(folder, shard).record)) is not None:
            status.update(record.rows.status)
    found.status = dict(status)
    found.sampled_shards = SAMPLE if len(newest) > SAMPLE else None


def speed(times: list[float], now: float) -> float | None:
    """Things finished a minute, of late; None if fewer than two are known.

    Args:
        times: when each was finished, ascending, in seconds.
    """
    recent = [each for each in times if now - each <= WINDOW_SECONDS]
    if len(recent) < MIN_SHARDS:
        recent = times[-MIN_SHARDS:]
    if len(recent) < 2:
        return None
    return round((len(recent) - 1) / max(now - recent[0], 1e-9) * 60, 2)


def _count_steps(run_dir: RunDir, node: Node, found: NodeStatus) -> None:
    """The last step of a training by its log; its number of steps if the config has it."""
    found.unit = "steps"
    section = run_dir.config.trainings().get(node.kind.trains)
    found.total = None if section is None else section.steps
    logs = run_dir.store.list(log_folder(node.name), suffix=".jsonl")
    if not logs:
        return
    lines = run_dir.store.read(f"{log_folder(node.name)}/{logs[-1]}").splitlines()
    entries: list[dict[str, Any]] = [json.loads(line) for line in lines[-MIN_SHARDS:] if line.endswith(b"}")]
    if not entries:
        return
    first, last = entries[0], entries[-1]
    found.done = last["step"]
    elapsed = last["time"] - first["time"]
    if elapsed > 0:
        found.per_minute = round((last["step"] - first["step"]) / elapsed * 60, 2)
        if found.total is not None and found.per_minute:
            found.left_seconds = round((found.total - last["step"]) / found.per_minute * 60)


def _last_line(run_dir: RunDir, name: str) -> str | None:
    data = run_dir.store.find(failure_log(name)) or b""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else None


def failed_rows(status: Mapping[str, int]) -> list[tuple[str, int]]:
    """(status, rows) of the rows that failed, most frequent first."""
    return [(name, count) for name, count in Counter(status).most_common() if name != SUCCESS]
