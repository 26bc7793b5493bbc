"""The nodes that stream shards through stages: fetch and bootstrap."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from capfilt.cluster.chain.engine import Step, run_chain
from capfilt.cluster.chain.shrinking import ClusterShrunk
from capfilt.cluster.sizing import Sizing
from capfilt.pipeline.console.signals import Stopped
from capfilt.pipeline.errors import NodeFailed, root_cause
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.failures import check_failed_fraction, failure_causes
from capfilt.pipeline.plan import Node
from capfilt.stages.manifest.index import Index, build_index
from capfilt.stages.pairs.parts import check_parts
from capfilt.stages.rows import name_of

StepsOf = Callable[[Sizing], list[Step]]
ATTEMPTS = 3
"""Times in a row that a node goes over its shards on a shrinking cluster though none gets done. While some get done it goes
on: the engine may break down, and a cluster's node that dies takes the retries of its shards with it."""
EARLY_ROWS, EARLY_SHARE = 5000, 0.02
"""A source that fails wholesale is given up after so many rows, and so large a part of the node's."""


def run_shards(run: RunContext, node: Node, steps: StepsOf, folder: str) -> None:
    """Run the chain over every shard without a commit record, until all have one."""
    indexes: dict[str, Index] = {}
    for source in node.sources:
        rows = run.config.sources[source].rows
        indexes[source] = build_index(rows, run.store / f"corpus/{source}/index", source=source)
        check_parts(source, run.config.sources[source].parts, indexes[source].shards)  # before any download
    watch = _Watch(run, node, indexes, folder)
    missing = stream_shards(run, node.name, steps, lambda: missing_shards(run, indexes, folder), watch)
    shards = sum(index.shards for index in indexes.values())
    if missing and run.stop.requested:
        raise Stopped(f"{shards - len(missing)} of {shards} shards are done")
    if missing:
        first = f"shard {missing[0]['shard']} of {missing[0]['source']}"
        raise NodeFailed(
            f"{node.name}: {len(missing)} of {shards} shards failed for good (first: {first}); "
            f"{failure_causes(run, node.name)}; the same command tries just these again"
        )


def stream_shards(
    run: RunContext,
    name: str,
    steps: StepsOf,
    missing: Callable[[], list[dict[str, Any]]],
    watch: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Run the chain over the shards that are missing, and again over those that are left while it makes progress.

    Args:
        name: what `run.progress` and `run.board` know the work by.
        steps: the chain for a cluster of that size; made anew each time, since nodes may be gone.
        missing: {"source", "shard"} of each shard that is not done.
        watch: receives what the chain returns for a shard.

    Returns:
        The shards that are missing still.
    """
    reports = run.board.of(name)
    left, broken, stuck = missing(), None, 0
    failed: set[str] = set()
    while left and stuck < ATTEMPTS and not run.stop.requested:
        # Those that failed come last: first they would use up what Ray Data lets fail before it gives up.
        todo, broken = sorted(left, key=lambda each: name_of(**each) in failed), None
        try:
            sizing = run.sizing()
            chain = [replace(step, reports=reports, limits=sizing.limits) for step in steps(sizing)]
            for result in run_chain(todo, chain, segment=run.config.cluster.segment, name=name):
                watch(result)
        except NodeFailed:
            raise
        except Exception as error:  # the engine's, whatever it is: what it committed stays
            broken = error
        left, before = missing(), failed
        failed = run.board.failed_shards(name)
        stuck = 0 if len(left) < len(todo) else stuck + 1
        others = failed - before and any(name_of(**each) not in failed for each in left)
        if stuck and not isinstance(broken, ClusterShrunk) and not others:
            break
        if left and stuck < ATTEMPTS and not run.stop.requested:
            cause = "shards failed" if broken is None else root_cause(broken)
            run.progress.say(name, f"{cause[:200]}; going on with {len(left)} shards")
    if left and broken is not None:
        raise broken
    return left


def missing_shards(run: RunContext, indexes: dict[str, Index], folder: str) -> list[dict[str, Any]]:
    """Shards without a commit record."""
    found: list[dict[str, Any]] = []
    for source, index in indexes.items():
        committed = set(run.ledger.committed(f"{folder}/{source}"))
        found += [{"source": source, "shard": s} for s in range(index.shards) if s not in committed]
    return found


class _Watch:
    """Shows the progress of a node, and gives a source up early that fails wholesale.

    In rows; in shards where image tars are read, of whose rows nobody knows the number before.
    """

    def __init__(self, run: RunContext, node: Node, indexes: dict[str, Index], folder: str) -> None:
        self.run, self.node = run, node
        self.rows = sum(index.rows for index in indexes.values())
        self.in_shards = any(index.of_tars for index in indexes.values())
        self.before = self.fresh = self.shards = 0
        for source, index in indexes.items():
            committed = len(run.ledger.committed(f"{folder}/{source}"))
            size = 1 if self.in_shards else run.config.sources[source].rows.shard_size
            self.before += min(index.shards if self.in_shards else index.rows, committed * size)
        self.seconds: Counter[str] = Counter()
        self.status: dict[str, Counter[str]] = {source: Counter() for source in indexes}
        total = sum(index.shards for index in indexes.values()) if self.in_shards else self.rows
        run.progress.set_total(node.name, total, unit="shards" if self.in_shards else "rows")
        run.progress.advance(node.name, self.before)

    def __call__(self, result: dict[str, Any]) -> None:
        """Take what the chain returned for a shard.

        Raises:
            NodeFailed: more of a source's rows fail than may.
        """
        record = list(json.loads(result["records"]).values())[-1]
        self.fresh += record["rows"]["read"]
        self.shards += 1
        self.seconds.update(record["seconds"])
        status = self.status[record["source"]]
        status.update(record["rows"]["status"])
        if status.total() >= max(EARLY_ROWS, EARLY_SHARE * self.rows):
            check_failed_fraction(self.run, record["source"], status)
        rates = (f"{name} {self.fresh / max(spent, 1e-9):,.0f}/s" for name, spent in self.seconds.items())
        done = self.before + (self.shards if self.in_shards else self.fresh)
        self.run.progress.advance(self.node.name, done, "  ".join(rates))


def count_rows(run: RunContext, node: Node, folder: str) -> dict[str, Any]:
    """Totals over the commit records of all sources of a node."""
    by_source: dict[str, dict[str, int]] = {}
    status: Counter[str] = Counter()
    candidates: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    texts = 0
    for source in node.sources:
        of_source: Counter[str] = Counter()
        for record in run.ledger.records(f"{folder}/{source}"):
            of_source.update(record["rows"]["status"])
            seconds.update(record["seconds"])
            texts += record.get("texts", 0)
            for origin, verdicts in record.get("candidates", {}).items():
                candidates.setdefault(origin, Counter()).update(verdicts)
        by_source[source] = dict(of_source)
        status.update(of_source)
    return {
        "rows": sum(status.values()),
        "status": dict(status),
        "by_source": by_source,
        "candidates": {origin: dict(verdicts) for origin, verdicts in candidates.items()},
        "texts": texts,
        "stage_seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def status_summary(status: dict[str, int]) -> str:
    """Rows by status, most frequent first."""
    return ", ".join(f"{count:,} {name}" for name, count in Counter(status).most_common())
