"""Running a chain of stages over the shards of a node until every shard has a commit record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from capfilt.cluster.chain.engine import chain_demand, run_chain
from capfilt.cluster.chain.lead import is_too_far_ahead
from capfilt.cluster.chain.losses import PassEnded
from capfilt.cluster.chain.resizing import Resizing, grace, patience
from capfilt.cluster.chain.steps import Step
from capfilt.cluster.machines import measure_machines
from capfilt.cluster.sizing import Sizing, can_grow
from capfilt.pipeline.console.signals import NodeStopped
from capfilt.pipeline.console.throughput import Throughput
from capfilt.pipeline.errors import NodeFailed, root_cause
from capfilt.pipeline.metrics.efficiency import StageEfficiency
from capfilt.pipeline.node import Node
from capfilt.pipeline.nodes.chain import mark_first_steps, stage_processes, with_step_logging
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.failures import failure_causes
from capfilt.pipeline.nodes.shard_progress import ShardProgress
from capfilt.pipeline.rundir.cutting import cut_manifest
from capfilt.stages.carried.values import describe_unfit
from capfilt.stages.manifest.index import Index, texts_notice
from capfilt.stages.pairs.parts import check_parts
from capfilt.stages.rows import format_shard_name
from capfilt.stages.shards.attempts import give_plain_names
from capfilt.stages.shards.sidecars import describe_lack, find_first_tar, read_sidecars
from capfilt.stages.storage.layout import corpus_folder, index_folder
from capfilt.stages.storage.store import StoreError

Shard = dict[str, Any]
"""{"source", "shard"}: one item of a chain."""
ATTEMPTS = 3
"""A node fails after this many passes in a row over its missing shards that complete none of them. While
passes complete shards it continues: the engine may fail, and a machine that is lost uses up the retries of
its shards."""


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
    work = ShardWork(node.name, steps, missing_now, progress, progress.throughput)
    missing = stream_shards(context, work)
    context.progress.describe(node.name, "all shards are done; reading their records")
    if not missing:
        for folder in dict.fromkeys([*map(corpus_folder, node.sources), *folders.values()]):
            give_plain_names(context.store, folder, context.run_dir.lease.confirm)
    for source in progress.without_texts():
        context.progress.say(node.name, describe_source_without_texts(context, source, indexes[source]))
    for source in filter(progress.unfit.get, progress.unfit):
        context.progress.say(node.name, describe_unfit(progress.unfit[source], source))
    shards = sum(index.shards for index in indexes.values())
    if missing and context.stop.requested:
        raise NodeStopped(f"{shards - len(missing)} of {shards} shards are done")
    if missing:
        first = f"shard {missing[0]['shard']} of {missing[0]['source']}"
        raise NodeFailed(
            f"{node.name}: {len(missing)} of {shards} shards failed in every attempt (first: {first}); "
            f"{failure_causes(context, node.name)}; the same command retries only these"
        )
    return progress.throughput.efficiency.measure(model_rates(context, node.name))


def model_rates(context: RunContext, node: str) -> dict[str, float]:
    """{stage: images per second of its model alone in one process}, as the stages have reported so far."""
    rates: dict[str, float] = context.progress.board.get(node, {}).get("rates", {})
    return rates


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


@dataclass(frozen=True)
class EndOfPass:
    """Why a pass over the missing shards has ended."""

    error: Exception | None = None
    """The error of the engine, None if it has not failed."""
    resized: str | None = None
    """How the cluster has changed, if the pass ended for that."""

    @property
    def may_be_repeated(self) -> bool:
        """Whether another pass may complete shards although this one has completed none."""
        return self.resized is not None or isinstance(self.error, PassEnded)

    @property
    def settle_seconds(self) -> float:
        """Time before the next pass is sized."""
        return self.error.settle_seconds if isinstance(self.error, PassEnded) else 0.0

    @property
    def kind(self) -> str:
        """Label of the metric that counts repeated passes."""
        if self.error is None:
            return "failed" if self.resized is None else "resized"
        return self.error.kind if isinstance(self.error, PassEnded) else "error"

    @property
    def cause(self) -> str:
        """One line."""
        if self.error is not None:
            return str(self.error) if isinstance(self.error, PassEnded) else root_cause(self.error)
        return self.resized or "shards failed"


def _run_once(context: RunContext, work: ShardWork, todo: list[Shard], stalls: int) -> EndOfPass:
    """Run the chain once over these shards. What the pass has committed stays.

    Args:
        stalls: passes before that have completed nothing: each doubles the patience.
    """
    status, throughput, config = context.board.for_node(work.name), work.throughput, context.config.cluster
    try:
        sizing = context.sizing(work.name)
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
            efficiency = throughput.efficiency.measure(model_rates(context, work.name))
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
