"""The node that exports what a run has kept, and the same work as a command on Ray."""

from __future__ import annotations

import uuid
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from capfilt.pipeline.console.activity import Activity
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.export.export import run_export
from capfilt.pipeline.export.plan import ExportPlan, ExportRequest, text_weights, weighed_texts
from capfilt.pipeline.export.shards import missing_parts
from capfilt.pipeline.node import Node, NodeKind, NodeResult
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.pipeline.rundir.shared_paths import AskNodes, list_differences
from capfilt.stages.storage.layout import export_folder
from capfilt.stages.storage.local_files import TEMPORARY_PREFIX
from capfilt.stages.storage.store import Store, StoreError

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints

NAME = "export"
"""Name of the command's work on the progress display and the status board."""
CPUS = 0.5
"""CPUs of a task: it waits for files most of the time."""


def _outputs(node: Node) -> list[str]:
    return [export_folder(node.round)]


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    section, pretrain = fingerprints.config.export, fingerprints.config.pretrain
    assert section is not None, "a config without the section has no such node"
    own: dict[str, Any] = {"export": fingerprints.config_data["export"]}
    if pretrain is not None and (texts := weighed_texts(pretrain.texts, section.to)) is not None:
        own["texts"] = text_weights(texts)
    return own


def run_export_node(context: RunContext, node: Node) -> NodeResult:
    """Export what the node's round has kept."""
    section = context.config.export
    assert section is not None, "a config without the section has no such node"
    out = section.out or context.store.address(export_folder(node.round))
    request = ExportRequest(
        form=section.to,
        out=out,
        round=node.round,
        human=section.human,
        origins=section.origins,
        columns=section.columns,
    )
    tell = partial(context.progress.describe, node.name)
    seconds = Counter[str]()
    work = partial(export_shards, context, node.name, seconds=seconds)
    summary = run_export(context.run_dir, request, work, tell).summary
    counts = {
        "images": summary.images,
        "pairs": dict(summary.pairs),
        "stage_seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
    }
    outputs = () if section.out else tuple(node.outputs)
    return NodeResult(f"{sum(summary.pairs.values()):,} pairs in {out}", outputs, counts)


def export_on_ray(run_dir: RunDir, activity: Activity, plan: ExportPlan) -> None:
    """Start or join a Ray, and write every shard of an export that is not committed.

    Args:
        activity: shows what is done before the first shard; its console shows the progress.
    """
    activity("loading Ray")
    from capfilt.cluster.board import StatusBoard
    from capfilt.cluster.nodes import ask_each_node, count_nodes
    from capfilt.cluster.session import session
    from capfilt.pipeline.console.progress import POLL_SECONDS, Progress
    from capfilt.pipeline.console.signals import StopSignal
    from capfilt.pipeline.nodes.context import RunContext

    console = activity.console
    activity("starting Ray")
    with session(run_dir.config.cluster):
        check_seen_by_nodes(plan.config.out, count_nodes(), ask_each_node)
        progress, board = Progress(console), StatusBoard()
        progress.poll = partial(board.read, timeout=POLL_SECONDS)
        # The signals are not handled: a command that is interrupted is simply given again.
        context = RunContext(run_dir, progress, board, StopSignal(plan.config.out, 0, console.print))
        activity.stop()
        with progress:
            progress.begin(NAME, unit="shards")
            export_shards(context, NAME, plan)
            progress.end(NAME, f"{plan.total:,} shards")


def export_shards(
    context: RunContext, name: str, plan: ExportPlan, *, seconds: Counter[str] | None = None
) -> None:
    """Write every shard of an export that is not committed, on the Ray that runs.

    Args:
        name: of the work on the progress display and the status board.
        seconds: {stage: seconds}, to which those of every shard are added.

    Raises:
        NodeFailed: some shards fail in every attempt.
    """
    from capfilt.cluster.chain.steps import Step
    from capfilt.pipeline.console.throughput import Throughput
    from capfilt.pipeline.nodes.chain import ISOLATION
    from capfilt.pipeline.nodes.failures import failure_causes
    from capfilt.pipeline.nodes.shards import ShardWork, stream_shards
    from capfilt.stages.export.shard import ExportShard
    from capfilt.stages.shards.commit import stage_seconds_of

    progress, missing = context.progress, partial(missing_parts, plan)
    done = plan.total - len(missing())
    progress.set_total(name, plan.total, unit="shards")
    progress.advance(name, done)

    def count(result: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        spent = stage_seconds_of(result)
        context.metrics.count_shard(name, [], {}, spent)
        if seconds is not None:
            seconds.update(spent)
        progress.advance(name, done)

    make = partial(ExportShard, plan.config)
    step = Step(name="export", make=make, cpus=CPUS, kind="write", isolation=ISOLATION)
    left = stream_shards(context, ShardWork(name, lambda sizing: [step], missing, count, Throughput()))
    if left:
        raise NodeFailed(
            f"{name}: {len(left)} of {plan.total} shards failed in every attempt; "
            f"{failure_causes(context, name)}; the same command retries only these"
        )


def check_seen_by_nodes(out: Store, nodes: int, ask: AskNodes) -> None:
    """Check that all nodes of the cluster see the folder of an export.

    Raises:
        StoreError: some do not.
    """
    if nodes < 2:
        return
    probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
    out.put(probe, probe.encode())
    try:
        answers = ask(list_differences, out, probe, [])
    finally:
        out.remove_file(probe)
    for address, lines in answers:
        for line in lines:
            raise StoreError(
                f"{line.replace('run.dir:', 'OUT:')} on {address}; use a folder that all nodes see"
            )


EXPORT = NodeKind("export", outputs=_outputs, inputs=_inputs, run=run_export_node, summarizes=True)
