"""Runs the DAG: done nodes are skipped, half-done ones are resumed, and ready ones run side by side."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter

from rich.console import Console

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.nodes import ask_each_node, count_nodes
from capfilt.cluster.session import session
from capfilt.pipeline.console.activity import Activity, hidden_activity
from capfilt.pipeline.console.logs import log_context
from capfilt.pipeline.console.progress import POLL_SECONDS, Progress
from capfilt.pipeline.console.signals import Interrupted, NodeStopped, StopSignal
from capfilt.pipeline.metrics.run_metrics import RunMetrics
from capfilt.pipeline.node import Node
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.failures import describe_failure
from capfilt.pipeline.prepare import Prepared
from capfilt.pipeline.rundir.ledger import State
from capfilt.pipeline.rundir.shared_paths import check_shared_paths
from capfilt.stages.storage.layout import INDEX_PARTS, failure_log, index_folder, source_folders


@dataclass
class Outcome:
    """How a run ended."""

    failed: dict[str, str] = field(default_factory=dict)
    """Node → one line that says why."""
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def execute(
    prepared: Prepared,
    console: Console,
    resume: str | None = None,
    activity: Activity | None = None,
    side_by_side: bool = True,
) -> Outcome:
    """Run every selected node that is not done.

    Args:
        resume: the command that a second signal prints.
        activity: shows what is done before the first node starts and after the last one; None shows nothing.
        side_by_side: run nodes that are ready at the same time; if False, one after another.

    Raises:
        ClusterError: no cluster answers.
        ConfigError, StoreError: a node does not see the files that the driver sees.
        LeaseError: another process has taken the run directory over.
        Interrupted: a signal came; work in progress has been finished or has run out of grace time.
    """
    todo, run_dir = prepared.todo, prepared.run_dir
    progress = Progress(console)
    outcome = Outcome(skipped=[name for name in prepared.selected if name not in todo])
    for name in outcome.skipped:
        progress.skip(name)
    if not todo:
        return outcome
    config, store = run_dir.config, run_dir.store
    stopping = StopSignal(store, config.run.grace_seconds, console.print, resume)
    activity = activity or hidden_activity()
    activity("starting Ray")
    with stopping as stop, session(config.cluster):
        check_shared_paths(config, store, count_nodes(), ask_each_node)
        board = StatusBoard()
        progress.poll = partial(board.read, timeout=POLL_SECONDS)
        context = RunContext(run_dir, progress, board, stop, RunMetrics.exported(config.run.dir))
        activity.stop()
        try:
            with progress:
                _run_ready(context, todo, prepared.state, outcome, side_by_side=side_by_side)
        finally:
            activity("disconnecting from Ray")
    return outcome


def _run_ready(
    context: RunContext,
    todo: dict[str, Node],
    state: dict[str, State],
    outcome: Outcome,
    *,
    side_by_side: bool,
) -> None:
    """Run the nodes, each as soon as the nodes that it needs are done. After a failure no further node
    starts; running nodes may finish."""
    order = TopologicalSorter({name: [n for n in node.needs if n in todo] for name, node in todo.items()})
    order.prepare()
    running: dict[Future[str], str] = {}
    ready: list[str] = []
    pool = ThreadPoolExecutor(max_workers=max(1, len(todo)), thread_name_prefix="capfilt-node")
    try:
        while order.is_active():
            context.run_dir.lease.check()
            if not outcome.failed and not context.stop.requested:
                ready += order.get_ready()
                while ready and (side_by_side or not running):
                    name = ready.pop(0)
                    running[pool.submit(_run_node, context, todo[name], state[name])] = name
            if not running or (context.stop.requested and _can_stop_now(context, todo, running)):
                break
            finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            context.progress.draw()
            context.metrics.look(context.progress)
            for future in finished:
                name = running.pop(future)
                _record_end(context, name, future, outcome)
                order.done(name)
        if context.stop.signum is not None:
            for name in running.values():
                context.progress.end(name, "resumes from its last checkpoint or shard", "stopped")
            raise Interrupted(context.stop.signum)
    finally:
        # Do not wait: a thread that is inside Ray cannot be joined. Records on disk decide what is done.
        pool.shutdown(wait=False, cancel_futures=True)


def _can_stop_now(context: RunContext, todo: dict[str, Node], running: dict[Future[str], str]) -> bool:
    """Whether waiting longer is pointless: either the grace time is over, or only trainings run, which resume
    from their last checkpoint in any case. Nodes that commit shard by shard finish the shards in progress."""
    return context.stop.overdue or not any(todo[name].kind.streams_shards for name in running.values())


def _record_end(context: RunContext, name: str, future: Future[str], outcome: Outcome) -> None:
    """Record in the outcome and the progress display how a node ended."""
    context.metrics.end(name)
    error = future.exception()
    if error is None:
        outcome.done.append(name)
        context.progress.end(name, future.result())
        return
    if isinstance(error, NodeStopped):
        context.progress.end(name, str(error), "stopped")
        return
    outcome.failed[name] = describe_failure(context, name, error)
    context.progress.end(name, "", "failed")


def _run_node(context: RunContext, node: Node, state: State) -> str:
    """Write a node's start record, do its work, and write its record. Runs in a thread of its own.

    Returns:
        One line for the user about what the node has done.
    """
    store, ledger = context.store, context.ledger
    inputs = context.fingerprints.inputs(node.name)
    context.metrics.begin(node.name)
    context.progress.begin(node.name, resumed="resuming where it stopped" if state == "half" else "")
    ledger.start(node.name, inputs, context.fingerprints.given(node.name))
    start = time.monotonic()
    with log_context(node=node.name):
        if not node.kind.summarizes:
            context.await_resources(node.name)
        result = node.kind.run(context, node)
    ledger.finish(node.name, inputs, result, round(time.monotonic() - start, 1))
    store.remove_file(failure_log(node.name))
    corpora = [folder for source in node.sources for folder in source_folders(source)]
    parts = [f"{index_folder(source)}/{INDEX_PARTS}" for source in node.sources]
    for folder in dict.fromkeys([*node.outputs, *corpora, *parts]):
        store.remove_temporaries(folder)  # of processes that died; a late writer could not commit any more
    return result.summary
