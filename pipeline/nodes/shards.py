"""Running a chain of stages over the shards of a node until every shard has a commit record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from capfilt.cluster.chain.engine import Step, run_chain
from capfilt.cluster.chain.shrinking import ClusterShrunk
from capfilt.cluster.sizing import Sizing
from capfilt.pipeline.console.signals import NodeStopped
from capfilt.pipeline.errors import NodeFailed, root_cause
from capfilt.pipeline.node import Node
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.failures import check_failed_fraction, failure_causes
from capfilt.pipeline.nodes.worker_logs import with_step_logging
from capfilt.stages.manifest.index import Index, build_index
from capfilt.stages.pairs.parts import check_parts
from capfilt.stages.rows import name_of
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord
from capfilt.stages.storage.layout import index_folder

Shard = dict[str, Any]
"""{"source", "shard"}: one item of a chain."""
ATTEMPTS = 3
"""Passes in a row over the missing shards without progress after which a node gives up. With progress it goes on: the
engine may fail, and a machine that is lost uses up the retries of its shards."""
EARLY_ROWS, EARLY_SHARE = 5000, 0.02
"""A source most of whose rows fail is given up once so many of its rows, and so large a share of the node's rows, have
been processed."""


@dataclass(frozen=True)
class ShardWork:
    """A node's work on shards, whatever its stages are."""

    name: str
    """Name of the work for the progress display and the status board."""
    steps: Callable[[Sizing], list[Step]]
    """The chain for a cluster of that size; built again for each pass, since machines may be gone."""
    missing: Callable[[], list[Shard]]
    """The shards that are not done."""
    on_result: Callable[[dict[str, Any]], None]
    """Receives what the chain returns for a shard."""


def run_shards(
    context: RunContext, node: Node, steps: Callable[[Sizing], list[Step]], folders: Mapping[str, str]
) -> None:
    """Run the chain over every shard without a commit record, until all have one.

    Args:
        folders: source → folder of its commit records.

    Raises:
        NodeFailed: shards are left that fail every time, or too many rows fail.
        NodeStopped: the run is to stop; what is committed stays.
    """
    config = context.config
    indexes: dict[str, Index] = {}
    for source in node.sources:
        section = config.sources[source]
        store = context.store / index_folder(source)
        indexes[source] = build_index(section.rows, store, source=source)
        check_parts(source, section.parts, indexes[source].shards)  # before any download
    watch = _Watch(context, node, indexes, folders)
    work = ShardWork(node.name, steps, lambda: missing_shards(context, indexes, folders), watch)
    missing = stream_shards(context, work)
    shards = sum(index.shards for index in indexes.values())
    if missing and context.stop.requested:
        raise NodeStopped(f"{shards - len(missing)} of {shards} shards are done")
    if missing:
        first = f"shard {missing[0]['shard']} of {missing[0]['source']}"
        raise NodeFailed(
            f"{node.name}: {len(missing)} of {shards} shards failed in every attempt (first: {first}); "
            f"{failure_causes(context, node.name)}; the same command tries only these again"
        )


def stream_shards(context: RunContext, work: ShardWork) -> list[Shard]:
    """Run the chain over the missing shards, and again over those that are left as long as it makes progress.

    Returns:
        The shards that are still missing.
    """
    left, error, stuck = work.missing(), None, 0
    failed: set[str] = set()
    while left and stuck < ATTEMPTS and not context.stop.requested:
        # Shards that failed before come last: Ray Data gives up after so many failures, which they would use up.
        todo = sorted(left, key=lambda each: name_of(**each) in failed)
        error = _run_once(context, work, todo)
        left, failed_before = work.missing(), failed
        failed = context.board.failed_shards(work.name)
        stuck = 0 if len(left) < len(todo) else stuck + 1
        others_may_pass = failed - failed_before and any(name_of(**each) not in failed for each in left)
        if stuck and not isinstance(error, ClusterShrunk) and not others_may_pass:
            break
        if left and stuck < ATTEMPTS and not context.stop.requested:
            cause = "shards failed" if error is None else root_cause(error)
            context.progress.say(work.name, f"{cause[:200]}; going on with {len(left)} shards")
    if left and error is not None:
        raise error
    return left


def _run_once(context: RunContext, work: ShardWork, todo: list[Shard]) -> Exception | None:
    """One pass over the shards; the error that ended it early, None if none did. What it committed stays."""
    status = context.board.for_node(work.name)
    try:
        sizing = context.sizing()
        chain = [
            replace(with_step_logging(step, work.name), node_status=status, limits=sizing.limits)
            for step in work.steps(sizing)
        ]
        for result in run_chain(todo, chain, segment=context.config.cluster.segment, name=work.name):
            work.on_result(result)
    except NodeFailed:
        raise
    except Exception as error:  # whatever the engine raises
        return error
    return None


def missing_shards(
    context: RunContext, indexes: Mapping[str, Index], folders: Mapping[str, str]
) -> list[Shard]:
    """Shards without a commit record."""
    found: list[Shard] = []
    for source, index in indexes.items():
        committed = set(context.ledger.committed(folders[source]))
        found += [{"source": source, "shard": s} for s in range(index.shards) if s not in committed]
    return found


class _Watch:
    """Shows the progress of a node, and gives up early on a source most of whose rows fail.

    Progress counts rows; shards where image tars are read, whose rows nobody knows beforehand.
    """

    def __init__(
        self, context: RunContext, node: Node, indexes: Mapping[str, Index], folders: Mapping[str, str]
    ) -> None:
        self.context, self.node = context, node
        self.rows = sum(index.rows for index in indexes.values())
        self.in_shards = any(index.of_tars for index in indexes.values())
        self.before = self.fresh = self.shards = 0
        for source, index in indexes.items():
            committed = len(context.ledger.committed(folders[source]))
            size = 1 if self.in_shards else context.config.sources[source].rows.shard_size
            self.before += min(index.shards if self.in_shards else index.rows, committed * size)
        self.seconds: Counter[str] = Counter()
        self.status: dict[str, Counter[str]] = {source: Counter() for source in indexes}
        total = sum(index.shards for index in indexes.values()) if self.in_shards else self.rows
        context.progress.set_total(node.name, total, unit="shards" if self.in_shards else "rows")
        context.progress.advance(node.name, self.before)

    def __call__(self, result: dict[str, Any]) -> None:
        """Count what the chain returned for a shard.

        Raises:
            NodeFailed: more of a source's rows fail than may.
        """
        record = list(msgspec.json.decode(result["records"], type=dict[str, CommitRecord]).values())[-1]
        self.fresh += record.rows.read
        self.shards += 1
        self.seconds.update(record.seconds)
        status = self.status[record.source]
        status.update(record.rows.status)
        if status.total() >= max(EARLY_ROWS, EARLY_SHARE * self.rows):
            check_failed_fraction(self.context.config, record.source, status)
        rates = (f"{name} {self.fresh / max(spent, 1e-9):,.0f}/s" for name, spent in self.seconds.items())
        done = self.before + (self.shards if self.in_shards else self.fresh)
        self.context.progress.advance(self.node.name, done, "  ".join(rates))


@dataclass
class _Totals:
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


def count_records(context: RunContext, folders: Mapping[str, str]) -> dict[str, Any]:
    """Totals over the commit records in these folders (source → folder), as a node record has them."""
    totals = _Totals()
    for source, folder in folders.items():
        of_source: Counter[str] = Counter()
        for record in context.ledger.records(folder):
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
