"""`capfilt retry`: rows that failed are asked for again, in place; everything else of the corpus stays as it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.session import session
from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.progress import POLL_SECONDS, Progress
from capfilt.pipeline.console.signals import Interrupted, Stop
from capfilt.pipeline.nodes.chain import fetch_configs, retry_steps
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.failures import describe_failure, failure_causes, failure_log
from capfilt.pipeline.nodes.shards import status_summary, stream_shards
from capfilt.pipeline.plan import Node, downstream, plan
from capfilt.pipeline.prepare import make_corpora
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.generations import clear_staging, is_stale, publish, staged_shards
from capfilt.pipeline.rundir.lease import Lease
from capfilt.pipeline.rundir.ledger import Ledger, fingerprint
from capfilt.stages.manifest.index import read_index, read_slice
from capfilt.stages.shards.retry import STAGING, RetryConfig
from capfilt.stages.storage.store import Store

NAME = "retry"


@dataclass
class Retried:
    """What a retry did."""

    asked: int = 0
    """Rows asked for again."""
    status: Counter[str] = field(default_factory=Counter)
    """What became of them."""
    shards: int = 0
    """Shards they are in."""
    changed: int = 0
    """Shards of which a row has another status now."""
    again: list[str] = field(default_factory=list)
    """Nodes that have work to do, by this retry or since before."""
    trained: str | None = None
    """The first training that read the corpus as it was, if one did."""
    failed: str | None = None
    """Why shards could not be asked for again; None if all were."""


def retry_rows(config: Config, classes: tuple[str, ...], console: Console, lease: Lease) -> Retried:
    """Ask again for the corpus rows of these classes and put the shards in which something changed in their place.

    Call it inside `hold_run`. Shards of an earlier retry of the same classes that was broken off are not asked again.

    Raises:
        ConfigError: the corpus was fetched with other settings than the config has.
        Interrupted: a signal came; what was staged stays for the next call, or for the next run.
        ClusterError, LeaseError, ManifestError, StoreError: one line for the user.
    """
    store, nodes = Store(config.run.dir, config.run.storage_options), plan(config)
    ledger, prints = Ledger(store), Fingerprints(config, nodes)
    kinds = {name: source.kind for name, source in config.sources.items()}
    found_staged = staged_shards(store, ledger)
    others = [s for s in found_staged if s.content["classes"] != list(classes) or is_stale(store, s)]
    publish(store, ledger, nodes, kinds, others, lease)
    make_corpora(config)
    due = _rows_due(config, store, ledger, prints, classes, console)
    found = Retried(failed=None)
    if due:
        with session(config.cluster), Stop(store, config.run.grace_seconds, console.print) as stop:
            progress, board = Progress(console), StatusBoard()
            progress.poll = board.read
            run = RunContext(config, store, ledger, nodes, prints, progress, board, stop)
            found.failed = _fetch_again(run, RetryConfig(run=store, classes=classes), due, lease)
    lease.check()
    staged = staged_shards(store, ledger)
    for each in staged:
        found.asked += each.content["asked"]
        found.status.update(each.content["status"])
    changed, _ = publish(store, ledger, nodes, kinds, staged, lease)
    clear_staging(store)
    found.shards, found.changed = len(staged), len(changed)
    found.again = [name for name in nodes if ledger.node(name) is None]
    found.trained = _first_training(ledger, nodes, found.again)
    return found


def _rows_due(
    config: Config,
    store: Store,
    ledger: Ledger,
    prints: Fingerprints,
    classes: Sequence[str],
    console: Console,
) -> dict[tuple[str, int], int]:
    """(source, shard) → rows of these classes, by the commit records."""
    due = {}
    for source in config.sources:
        if not ledger.committed(f"corpus/{source}"):
            continue
        index = store / f"corpus/{source}/index"
        cut = read_index(index)
        if cut is not None and cut.tars == cut.shards:
            console.print(f"{NAME:<13} {source}: its images came with tars, there is nothing to ask again")
            continue
        expected = fingerprint(prints.corpus(source))
        for record in ledger.records(f"corpus/{source}"):
            rows = sum(record["rows"]["status"].get(name, 0) for name in classes)
            if rows and cut is not None and cut.of_tars and _of_tar(index, record["shard"]):
                continue
            if rows and record["fingerprint"] != expected:
                raise ConfigError(
                    f"corpus/{source} was fetched with other settings than the config has now; retry with the same "
                    "sizes and limits (time limits and speeds may differ), or fetch all of it with --fresh fetch"
                )
            if rows:
                due[source, record["shard"]] = rows
    return due


def _of_tar(index: Store, shard: int) -> bool:
    return read_slice(index, shard)["tar"][0].as_py() is not None


def _fetch_again(
    run: RunContext, config: RetryConfig, due: dict[tuple[str, int], int], lease: Lease
) -> str | None:
    """Stage the next generation of these shards; why some could not be, None if all were."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="capfilt-retry")
    try:
        with run.progress:
            run.progress.begin(NAME)
            work = pool.submit(_stage_shards, run, config, due)
            _attend(run, lease, work)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # as in `pipeline.execute`
    if run.stop.signum is not None:
        run.progress.end(NAME, "shards that are asked again stay so", "stopped")
        raise Interrupted(run.stop.signum)
    if (error := work.exception()) is not None:
        run.progress.end(NAME, "", "failed")
        return f"{describe_failure(run, NAME, error)}; the same command asks for the rest"
    left = work.result()
    run.store.remove_file(failure_log(NAME))
    summary = f"{sum(due.values()):,} rows of {len(due):,} shards"
    run.progress.end(NAME, summary, "failed" if left else "done")
    if not left:
        return None
    first = f"shard {left[0]['shard']} of {left[0]['source']}"
    return (
        f"{NAME}: {len(left)} of {len(due)} shards failed for good (first: {first}); {failure_causes(run, NAME)}; "
        "they are as they were, the same command tries them again"
    )


def _attend(run: RunContext, lease: Lease, work: Future[list[dict[str, Any]]]) -> None:
    """Wait for the thread, draw, and see to the lease and to signals."""
    while not work.done():
        lease.check()
        if run.stop.overdue:
            raise Interrupted(run.stop.signum or 0)
        wait([work], timeout=POLL_SECONDS)
        run.progress.draw()


def _stage_shards(
    run: RunContext, config: RetryConfig, due: dict[tuple[str, int], int]
) -> list[dict[str, Any]]:
    """Run the chain over the shards that are not staged; those that are not staged afterwards."""
    sources = tuple(dict.fromkeys(source for source, _ in due))

    def missing() -> list[dict[str, Any]]:
        staged = {(s, n) for s in sources for n in run.ledger.committed(f"{STAGING}/{s}")}
        return [{"source": s, "shard": n} for s, n in due if (s, n) not in staged]

    before = sum(due.values()) - sum(due[m["source"], m["shard"]] for m in missing())
    run.progress.set_total(NAME, sum(due.values()), unit="rows")
    done: Counter[str] = Counter()

    def watch(result: dict[str, Any]) -> None:
        done.update(json.loads(result["records"])["retry"]["status"])
        run.progress.advance(NAME, before + done.total(), status_summary(done))

    with ExitStack() as stack:
        configs = fetch_configs(run.config, sources, stack)
        return stream_shards(run, NAME, partial(retry_steps, config, configs), missing, watch)


def _first_training(ledger: Ledger, nodes: dict[str, Node], again: list[str]) -> str | None:
    """The first training after a node that has work again, if it is done: it saw the pictures there were."""
    after = {later for name in again for later in downstream(nodes, name)}
    trained = [n for n in nodes if n in after and nodes[n].kind in ("pretrain", "captioner", "filter")]
    return next((name for name in trained if ledger.node(name) is not None), None)


def closing_lines(found: Retried, run_dir: str, command: str, go_on: str) -> list[tuple[str, str]]:
    """(label, value) of the last lines: what was done, where it is, and what comes next.

    Args:
        command: the retry itself.
        go_on: makes the rest of the run.
    """
    lines = [
        (
            "asked again",
            f"{found.asked:,} rows = {status_summary(found.status)}" if found.asked else "no row",
        ),
        ("changed", f"{found.changed:,} of {found.shards:,} shards"),
        ("run", run_dir),
    ]
    if found.failed is not None:
        return [*lines, ("resume", command)]
    if not found.again:
        return [*lines, ("again", command)]
    lines.append(("to do", ", ".join(found.again)))
    if found.trained is not None:
        lines.append(
            (
                "trained before",
                f"{found.trained} stays as it is; {go_on} --fresh {found.trained} trains it anew",
            )
        )
    return [*lines, ("continue", go_on)]
