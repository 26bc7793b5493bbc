"""Running a chain of stages over the shards of a node until every shard has a commit record."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from capfilt.cluster.chain.efficiency import StageEfficiency
from capfilt.cluster.chain.engine import chain_demand, run_chain
from capfilt.cluster.chain.lead import is_too_far_ahead
from capfilt.cluster.chain.resizing import Resizing, grace, patience
from capfilt.cluster.chain.steps import Step
from capfilt.cluster.machines import measure_machines
from capfilt.cluster.sizing import Sizing, can_grow
from capfilt.pipeline.console.signals import NodeStopped
from capfilt.pipeline.console.throughput import FinishedShard, Throughput
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.node import Node
from capfilt.pipeline.nodes.chain import mark_first_steps, stage_processes, with_step_logging
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.failures import EndOfPass, check_failed_fraction, failure_causes
from capfilt.pipeline.rundir.cutting import cut_manifest
from capfilt.stages.carried.values import describe_unfit
from capfilt.stages.manifest.columns import is_no_column
from capfilt.stages.manifest.index import Index, texts_notice
from capfilt.stages.pairs.parts import check_parts
from capfilt.stages.rows import format_shard_name
from capfilt.stages.shards.attempts import give_plain_names
from capfilt.stages.shards.commit import stage_seconds_of
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord, CorpusRecord
from capfilt.stages.shards.sidecars import describe_lack, find_first_tar, read_sidecars
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import corpus_folder, index_folder
from capfilt.stages.storage.store import StoreError

Shard = dict[str, Any]
"""{"source", "shard"}: one item of a chain."""
ATTEMPTS = 3
"""A node fails after this many passes in a row over its missing shards that complete none of them. While
passes complete shards it continues: the engine may fail, and a machine that is lost uses up the retries of
its shards."""
EARLY_ROWS, EARLY_SHARE = 5000, 0.02
"""The limit `run.max_failed_fraction` is checked before the last shard of a source once at least this many
rows of the source, and this share of the rows of the node, have been processed."""


@dataclass(frozen=True)
class ShardWork:
    """Shards to process, and the chain of stages that processes them."""

    name: str
    """Name of the work on the progress display and the status board."""
    steps: Callable[[Sizing], list[Step]]
    """The chain for a cluster of the given size; built for each pass."""
    missing: Callable[[], list[Shard]]
    """The shards that are not done."""
    on_result: Callable[[dict[str, Any]], None]
    """Receives what the chain returns for a shard."""
    throughput: Throughput
    """Learns which stages the chain has; `on_result` adds finished shards to it."""
    shards: int | None = None
    """Number of all shards, also of those that are done; None: not counted."""


def run_shards(
    context: RunContext, node: Node, steps: Callable[[Sizing], list[Step]], folders: Mapping[str, str]
) -> dict[str, StageEfficiency]:
    """Run the chain over every shard without a commit record, until all have one.

    Args:
        folders: source → folder of its commit records.

    Returns:
        The efficiency of each stage with a model; {} if this command has processed too few shards.

    Raises:
        NodeFailed: some shards fail in every attempt, or too many rows fail.
        NodeStopped: a signal has asked the run to stop; what is committed stays.
    """
    config = context.config
    indexes: dict[str, Index] = {}
    for source in node.sources:
        section = config.sources[source]
        context.progress.describe(node.name, f"cutting the manifest of {source} into shards")
        indexes[source] = cut_manifest(context.run_dir, source)
        check_parts(source, section.parts, indexes[source].shards)  # before any download
        notice = texts_notice(indexes[source], section.rows, source)
        if notice is not None:
            context.progress.say(node.name, notice)
    progress = ShardProgress(context, node, indexes, folders)
    missing_now = partial(missing_shards, context, indexes, folders)
    shards = sum(index.shards for index in indexes.values())
    work = ShardWork(node.name, steps, missing_now, progress, progress.throughput, shards)
    missing = stream_shards(context, work)
    context.progress.describe(node.name, "all shards are done; reading their records")
    if not missing:
        for folder in dict.fromkeys([*map(corpus_folder, node.sources), *folders.values()]):
            give_plain_names(context.store, folder, context.run_dir.lease.confirm)
    for source in progress.without_texts():
        context.progress.say(node.name, describe_source_without_texts(context, source, indexes[source]))
    for source in filter(progress.unfit.get, progress.unfit):
        context.progress.say(node.name, describe_unfit(progress.unfit[source], source))
    if missing and context.stop.requested:
        raise NodeStopped(f"{shards - len(missing)} of {shards} shards are done")
    if missing:
        first = f"shard {missing[0]['shard']} of {missing[0]['source']}"
        raise NodeFailed(
            f"{node.name}: {len(missing)} of {shards} shards failed in every attempt (first: {first}); "
            f"{failure_causes(context, node.name)}; the same command retries only these"
        )
    return progress.throughput.efficiency.measure(context.board.rates(node.name))


def describe_source_without_texts(context: RunContext, source: str, index: Index) -> str:
    """Why a source with image tars may have no texts: what its first tar has instead."""
    manifest, line = context.config.sources[source].rows, f"sources.{source}: none of its images has a text"
    tar = find_first_tar(context.store / index_folder(source), index)
    with suppress(StoreError):  # it was there when it was read
        if tar is not None:
            found = read_sidecars(tar, manifest)
            return f"{line}: {describe_lack(found, manifest, f'sources.{source}.rows')}"
    return f"{line}; set sources.{source}.rows.caption_column, or set it to none if that is meant"


def stream_shards(context: RunContext, work: ShardWork) -> list[Shard]:
    """Run the chain over the missing shards, and again over those that are left while passes complete shards.

    A pass ends early when the cluster has changed; the next one is sized for it. A pass that completes no
    shard is repeated, up to `ATTEMPTS` times in a row, only if the cluster has changed, or if shards failed
    that had not failed before and others have not been tried.

    Returns:
        The shards that are still missing.
    """
    left, ended, idle_passes = work.missing(), EndOfPass(), 0
    failed: set[str] = set()
    while left and idle_passes < ATTEMPTS and not context.stop.requested:
        # Shards that have failed come last: Ray Data ends an execution after a number of failures.
        todo = sorted(left, key=lambda each: format_shard_name(**each) in failed)
        ended = _run_once(context, work, todo, stalls=idle_passes)
        left, failed_before = work.missing(), failed
        failed = context.board.failed_shards(work.name)
        idle_passes = 0 if len(left) < len(todo) else idle_passes + 1
        others_may_pass = failed - failed_before and any(
            format_shard_name(**each) not in failed for each in left
        )
        if idle_passes and not ended.may_be_repeated and not others_may_pass:
            break
        if left and idle_passes < ATTEMPTS and not context.stop.requested:
            context.progress.say(work.name, f"{ended.cause[:200]}; continuing with {len(left)} shards")
            context.metrics.count_pass(work.name, ended.kind)
            time.sleep(ended.settle_seconds)
    if left and ended.error is not None:
        raise ended.error
    return left


def _run_once(context: RunContext, work: ShardWork, todo: list[Shard], stalls: int) -> EndOfPass:
    """Run the chain once over these shards. What the pass has committed stays.

    Args:
        stalls: passes before that have completed nothing: each doubles the patience.
    """
    status, throughput, config = context.board.for_node(work.name), work.throughput, context.config.cluster
    try:
        sizing = context.sizing(work.name, work.shards)
        chain = mark_first_steps(
            replace(with_step_logging(step, work.name), node_status=status, limits=sizing.limits)
            for step in work.steps(sizing)
        )
        stages = [stage_processes(step, sizing) for step in chain]
        throughput.begin_pass(stages)
        context.metrics.set_stages(work.name, stages)
        status.set_draining(False)
        status.set_holding(False)

        def watch_queues(waiting: Sequence[int]) -> None:
            context.metrics.set_waiting(work.name, waiting)
            rates = context.progress.board.get(work.name, {}).get("rates", {})
            efficiency = throughput.efficiency.measure(rates)
            context.metrics.set_efficiency(work.name, efficiency)
            status.set_holding(is_too_far_ahead(throughput.queues(waiting)))

        resizing = Resizing(
            demand := chain_demand(chain),
            demand.fits(sizing.resources),
            measure=partial(measure_machines, config),
            can_grow=partial(can_grow, config, sizing),
            drain=partial(status.set_draining, True),
            after=config.resize_seconds,
            patience=lambda: (
                2**stalls
                * patience(throughput.slowest, throughput.is_busy(context.progress.board.get(work.name, {})))
            ),
            grace=lambda: grace(throughput.slowest),
            on_waiting=watch_queues,
        )
        for result in run_chain(todo, chain, segment=config.segment, name=work.name, resizing=resizing):
            work.on_result(result)
    except NodeFailed:
        raise
    except Exception as error:  # the engine raises many types
        return EndOfPass(error)
    return EndOfPass(resized=resizing.reason)


def missing_shards(
    context: RunContext, indexes: Mapping[str, Index], folders: Mapping[str, str]
) -> list[Shard]:
    """Shards without a commit record."""
    found: list[Shard] = []
    for source, index in indexes.items():
        committed = set(context.ledger.committed_shards(folders[source]))
        found += [{"source": source, "shard": s} for s in range(index.shards) if s not in committed]
    return found


class ShardProgress:
    """Shows the progress of a node on its shards, and ends the node early if too many rows of a source fail.

    The progress counts rows; it counts shards if there are image tars among them, because the number of
    images in a tar is unknown until it is read.

    Args:
        folders: source → folder of its commit records.
    """

    def __init__(
        self, context: RunContext, node: Node, indexes: Mapping[str, Index], folders: Mapping[str, str]
    ) -> None:
        self.context, self.node = context, node
        self.rows = sum(index.rows for index in indexes.values())
        self.in_shards = any(index.has_tars for index in indexes.values())
        self.done_before = self.new_rows = self.new_shards = 0
        for source, index in indexes.items():
            committed = len(context.ledger.committed_shards(folders[source]))
            size = 1 if self.in_shards else context.config.sources[source].rows.shard_size
            self.done_before += min(index.shards if self.in_shards else index.rows, committed * size)
        self.tars = [source for source, index in indexes.items() if index.has_tars]
        self.images: Counter[str] = Counter()
        self.texts: Counter[str] = Counter()
        """Stored images and their texts, by source."""
        self.unfit = {source: Counter(index.unfit or {}) for source, index in indexes.items()}
        self.throughput = Throughput()
        self.status: dict[str, Counter[str]] = {source: Counter() for source in indexes}
        self.total = sum(index.shards for index in indexes.values()) if self.in_shards else self.rows
        self.done = self.done_before
        context.progress.set_total(node.name, self.total, unit="shards" if self.in_shards else "rows")
        context.progress.advance(node.name, self.done)
        context.progress.describe(node.name, self.describe)

    def __call__(self, result: dict[str, Any]) -> None:
        """Count what the chain returned for a shard.

        Raises:
            NodeFailed: a larger share of a source's rows has failed than the config allows.
        """
        records = list(msgspec.json.decode(result["records"], type=dict[str, CommitRecord]).values())
        if isinstance(record := records[0], CorpusRecord):
            self.images[record.source] += record.rows.status.get(SUCCESS, 0)
            self.texts[record.source] += record.texts
            self.unfit[record.source].update(record.unfit or {})
        record = records[-1]
        self.new_rows += record.rows.read
        self.new_shards += 1
        status = self.status[record.source]
        status.update(record.rows.status)
        if status.total() >= max(EARLY_ROWS, EARLY_SHARE * self.rows):
            check_failed_fraction(self.context.config, record.source, status)
        seconds = record.seconds | stage_seconds_of(result)
        self.context.metrics.count_shard(self.node.name, records, record.rows.status, seconds)
        self.throughput.add(
            FinishedShard(
                units=1 if self.in_shards else record.rows.read,
                rows=record.rows.read,
                images=record.rows.status.get(SUCCESS, 0),
                verdicts=record.candidates if isinstance(record, CandidatesRecord) else {},
                seconds=seconds,
            )
        )
        self.done = self.done_before + (self.new_shards if self.in_shards else self.new_rows)
        self.context.progress.advance(self.node.name, self.done)

    def describe(self, board: Mapping[str, Any]) -> str:
        """Speed, shares, time left and bottleneck, in one line."""
        return self.throughput.describe(self.total - self.done, board)

    def without_texts(self) -> list[str]:
        """Sources with image tars of whose stored images none has a text, although the config expects it."""
        return [
            source
            for source in self.tars
            if self.images[source]
            and not self.texts[source]
            and not is_no_column(self.context.config.sources[source].rows.caption_column)
        ]
