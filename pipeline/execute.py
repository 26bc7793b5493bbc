"""Runs the DAG: nodes that are done are skipped, half-done ones go on, ready ones run side by side."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from rich.console import Console

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.session import session
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.progress import POLL_SECONDS, Progress
from capfilt.pipeline.console.signals import Interrupted, Stop, Stopped
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.dispatch import run_node
from capfilt.pipeline.nodes.failures import describe_failure, failure_log
from capfilt.pipeline.plan import Node
from capfilt.pipeline.prepare import Prepared, hold_run, prepare
from capfilt.pipeline.rundir.lease import Lease
from capfilt.pipeline.rundir.ledger import State
from capfilt.pipeline.rundir.outputs import outputs_of


@dataclass
class Outcome:
    """How a run ended."""

    failed: dict[str, str] = field(default_factory=dict)
    """Node → one line that says why."""
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def run_dag(
    config: Config, console: Console, *, until: str | None = None, fresh: str | None = None
) -> Outcome:
    """Take the run directory, `prepare` and `execute`.

    Raises:
        ConfigError, LeaseError, LedgerError, ManifestError, StoreError, UnknownNode, ClusterError: one line for the
            user.
        Interrupted: a signal came, and what was in flight is finished.
    """
    with hold_run(config, console.print) as lease:
        return execute(prepare(config, lease, until=until, fresh=fresh), console, lease)


def execute(prepared: Prepared, console: Console, lease: Lease) -> Outcome:
    """Do what is to do.

    Raises:
        ClusterError: no cluster answers.
        LeaseError: somebody else has taken the run directory over.
        Interrupted: a signal came, and what was in flight is finished.
    """
    todo = prepared.todo
    progress = Progress(console)
    outcome = Outcome(skipped=[name for name in prepared.wanted if name not in todo])
    for name in outcome.skipped:
        progress.skip(name)
    if not todo:
        return outcome
    config, store = prepared.config, prepared.store
    with session(config.cluster), Stop(store, config.run.grace_seconds, console.print) as stop:
        board = StatusBoard()
        progress.poll = board.read
        run = RunContext(
            config, store, prepared.ledger, prepared.nodes, prepared.prints, progress, board, stop
        )
        with progress:
            _run_ready(run, todo, prepared.state, outcome, lease)
    return outcome


def _run_ready(
    run: RunContext, todo: dict[str, Node], state: dict[str, State], outcome: Outcome, lease: Lease
) -> None:
    """Start every node whose needs are met; after a failure nothing new starts, what runs may finish."""
    order = TopologicalSorter({name: [n for n in node.needs if n in todo] for name, node in todo.items()})
    order.prepare()
    running: dict[Future[str], str] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, len(todo)), thread_name_prefix="capfilt-node")
    try:
        while order.is_active():
            lease.check()
            if not outcome.failed and not run.stop.requested:
                for name in order.get_ready():
                    running[pool.submit(_do, run, todo[name], state[name])] = name
            if not running or (run.stop.requested and _nothing_to_wait_for(run, todo, running)):
                break
            finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            run.progress.draw()
            for future in finished:
                name = running.pop(future)
                _settle(run, name, future, outcome)
                order.done(name)
        if run.stop.signum is not None:
            for name in running.values():
                run.progress.end(name, "goes on from its last checkpoint or shard", "stopped")
            raise Interrupted(run.stop.signum)
    finally:
        # Never waits: a node that is still inside Ray cannot be joined; records on disk decide what is done.
        pool.shutdown(wait=False, cancel_futures=True)


def _nothing_to_wait_for(run: RunContext, todo: dict[str, Node], running: dict[Future[str], str]) -> bool:
    """Whether no running node finishes anything in the grace time: shards are committed one by one, a training is
    taken up from its last checkpoint anyway."""
    return run.stop.overdue or all(todo[name].kind not in ("fetch", "bootstrap") for name in running.values())


def _settle(run: RunContext, name: str, future: Future[str], outcome: Outcome) -> None:
    error = future.exception()
    if error is None:
        outcome.done.append(name)
        run.progress.end(name, future.result())
        return
    if isinstance(error, Stopped):
        run.progress.end(name, str(error), "stopped")
        return
    outcome.failed[name] = describe_failure(run, name, error)
    run.progress.end(name, "", "failed")


def _do(run: RunContext, node: Node, state: State) -> str:
    """One node in its thread: start record, work, end record."""
    inputs = run.prints.inputs(node.name)
    run.progress.begin(node.name, resumed="going on where it stopped" if state == "half" else "")
    run.ledger.start(node.name, inputs)
    start = time.monotonic()
    record = run_node(run, node)
    summary = record.pop("summary")
    run.ledger.finish(node.name, inputs, seconds=round(time.monotonic() - start, 1), **record)
    run.store.remove_file(failure_log(node.name))
    corpora = (f"corpus/{source}{folder}" for source in node.sources for folder in ("", "/index"))
    for folder in (*outputs_of(node), *corpora):
        run.store.remove_temporaries(folder)  # of processes that died; whoever is late has lost anyway
    return str(summary)
