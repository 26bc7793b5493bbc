"""Runs the DAG: nodes that are done are skipped, half-done ones go on, ready ones run side by side."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Any

from rich.console import Console

from cluster.metrics import Board
from cluster.session import ClusterError, session
from models.checkpoints import CheckpointError
from pipeline.clipart import make_clipart
from pipeline.config import Config
from pipeline.context import NodeFailed, Run, outputs_of
from pipeline.inputs import Fingerprints
from pipeline.ledger import Ledger, LedgerError, State
from pipeline.load import ConfigError, dump_config
from pipeline.nodes import run_node
from pipeline.plan import Node, UnknownNode, check_node, downstream, plan, select
from pipeline.progress import Progress
from pipeline.shapes import make_shapes
from stages.artifacts import ArtifactError
from stages.manifest import ManifestError, check_manifest
from stages.store import Store, StoreError

POLL_SECONDS = 0.5
FAILURE_LOG = "failure.log"
USER_ERRORS = (
    ArtifactError,
    CheckpointError,
    ClusterError,
    ConfigError,
    LedgerError,
    ManifestError,
    NodeFailed,
    StoreError,
    UnknownNode,
)
"""What a user can mend; each message is one line that says how. Anything else is a defect and keeps its trace."""


@dataclass
class Outcome:
    """How a run ended."""

    failed: dict[str, str] = field(default_factory=dict)
    """Node → one line that says why."""
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def states(config: Config, ledger: Ledger) -> dict[str, State]:
    """State of every node of the config in its run directory.

    Raises:
        LedgerError: the directory was made with another config.
    """
    nodes = plan(config)
    prints = Fingerprints(config, nodes)
    return {name: ledger.state(name, prints.inputs(name)) for name in nodes}


def make_corpora(config: Config) -> None:
    """The demonstration corpora that the config asks for, unless they are there."""
    if config.shapes is not None:
        make_corpus(make_shapes, config.shapes, config.shapes_dir)
    if config.clipart is not None:
        make_corpus(make_clipart, config.clipart, config.clipart_dir)


def make_corpus(make: Callable[[Any, str], object], config: object, folder: str) -> None:
    """Make one of them.

    Raises:
        ConfigError: the folder holds something else, or a program that makes it is missing.
    """
    try:
        make(config, folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_sources(config: Config) -> None:
    """Every manifest can be found and its first row read, before anything is started.

    Raises:
        ManifestError: the first that cannot.
    """
    for name, source in config.sources.items():
        check_manifest(source.rows, f"sources.{name}")


def run_dag(
    config: Config, console: Console, *, until: str | None = None, fresh: str | None = None
) -> Outcome:
    """Run the config's DAG up to `until`, after forgetting `fresh` and what depends on it.

    Raises:
        ConfigError, LedgerError, ManifestError, StoreError, UnknownNode, ClusterError: one line for the user.
    """
    nodes = plan(config)
    wanted = select(nodes, until=until)
    store = Store(config.run.dir, config.run.storage_options)
    ledger = Ledger(store)
    store.check_writable()
    ledger.check_place()
    make_corpora(config)
    check_sources(config)
    prints = Fingerprints(config, nodes)
    progress = Progress(console)
    run = Run(config, store, ledger, nodes, prints, progress, board=None)
    if fresh is not None:
        forget(run, fresh)
    # Refuse a changed config before the first process starts.
    state = {name: ledger.state(name, prints.inputs(name)) for name in nodes}
    ledger.save_config(dump_config(config))
    todo = {name: node for name, node in wanted.items() if state[name] != "done"}
    outcome = Outcome(skipped=[name for name in wanted if name not in todo])
    for name in outcome.skipped:
        progress.skip(name)
    if todo:
        with session(config.cluster):
            board = Board()
            progress.poll = board.read
            with progress:
                _run_ready(replace(run, board=board), todo, state, outcome)
    return outcome


def forget(run: Run, name: str) -> None:
    """Remove a node's records and outputs, and those of every node that needs it.

    `fetch` may be named even where the bootstrap fetches: it stands for the images of the web sources.
    """
    if name == "fetch" and name not in run.nodes:
        names = downstream(run.nodes, "bootstrap.1")
        extra = [f"corpus/{source}" for source in run.config.of_kind("web")]
    else:
        check_node(run.nodes, name, "--fresh")
        names, extra = downstream(run.nodes, name), []
    for each in reversed(names):
        run.ledger.forget(each, outputs_of(run.nodes[each]))
    for folder in extra:
        run.store.remove(folder)


def _run_ready(run: Run, todo: dict[str, Node], state: dict[str, State], outcome: Outcome) -> None:
    """Start every node whose needs are met; after a failure nothing new starts, what runs may finish."""
    order = TopologicalSorter({name: [n for n in node.needs if n in todo] for name, node in todo.items()})
    order.prepare()
    running: dict[Future[str], str] = {}
    with ThreadPoolExecutor(max_workers=max(1, len(todo)), thread_name_prefix="capfilt-node") as pool:
        while order.is_active():
            if not outcome.failed:
                for name in order.get_ready():
                    running[pool.submit(_do, run, todo[name], state[name])] = name
            if not running:
                break
            finished, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            run.progress.draw()
            for future in finished:
                name = running.pop(future)
                _settle(run, name, future, outcome)
                order.done(name)


def _settle(run: Run, name: str, future: Future[str], outcome: Outcome) -> None:
    error = future.exception()
    if error is None:
        outcome.done.append(name)
        run.progress.end(name, future.result())
        return
    if isinstance(error, USER_ERRORS):
        line = str(error)
    else:
        log = f"nodes/{name}.{FAILURE_LOG}"
        run.store.put(log, "".join(traceback.format_exception(error)).encode())
        line = f"{name}: {root_cause(error)}; the whole trace is in {run.store.address(log)}"
    outcome.failed[name] = line
    run.progress.end(name, "", failed=True)


def root_cause(error: BaseException) -> str:
    """One line about the error that started it all; Ray wraps a worker's exception several times."""
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and inner is not error:
        error = inner
    failures = getattr(error, "worker_failures", None)
    if failures:
        return root_cause(next(iter(failures.values())))
    text = str(error).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _do(run: Run, node: Node, state: State) -> str:
    """One node in its thread: start record, work, end record."""
    inputs = run.prints.inputs(node.name)
    run.progress.begin(node.name, resumed="going on where it stopped" if state == "half" else "")
    run.ledger.start(node.name, inputs)
    start = time.monotonic()
    record = run_node(run, node)
    summary = record.pop("summary")
    run.ledger.finish(node.name, inputs, seconds=round(time.monotonic() - start, 1), **record)
    return str(summary)
