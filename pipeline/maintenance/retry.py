"""`capfilt retry`: rows that failed are downloaded again, in place; everything else of the corpus is unchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from rich.console import Console

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.session import session
from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.console.progress import POLL_SECONDS, Progress
from capfilt.pipeline.console.signals import Interrupted, StopSignal
from capfilt.pipeline.nodes.chain import fetch_configs, retry_steps
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.failures import describe_failure, failure_causes
from capfilt.pipeline.nodes.shards import Shard, ShardWork, status_summary, stream_shards
from capfilt.pipeline.plan import downstream
from capfilt.pipeline.prepare import make_corpora
from capfilt.pipeline.rundir.generations import clear_staging, is_stale, publish, staged_shards
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.manifest.index import read_index, read_slice
from capfilt.stages.shards.records import StagedShard
from capfilt.stages.shards.retry import RetryConfig
from capfilt.stages.storage.layout import corpus_folder, failure_log, index_folder, staging_folder
from capfilt.stages.storage.store import Store

NAME = "retry"


@dataclass
class Retried:
    """What a retry did."""

    asked: int = 0
    """Rows that were downloaded again."""
    status: Counter[str] = field(default_factory=Counter)
    """Their statuses now."""
    shards: int = 0
    """Shards that hold them."""
    changed: int = 0
    """Shards in which a row has another status now."""
    again: list[str] = field(default_factory=list)
    """Nodes that have work to do, because of this retry or from before."""
    trained: str | None = None
    """The first training that read the corpus before the retry, if one did."""
    failed: str | None = None
    """Why shards could not be downloaded again; None if all were."""


def retry_rows(run_dir: RunDir, classes: tuple[str, ...], console: Console) -> Retried:
    """Download the corpus rows with these statuses again, and put the shards that have changed in place.

    Call it inside `hold_run`. Shards that an interrupted retry of the same classes has staged are not downloaded again.

    Raises:
        ConfigError: the corpus was fetched with other settings than the config has.
        Interrupted: a signal came; what was staged stays for the next call, or for the next run.
        ClusterError, LeaseError, ManifestError, StoreError: one line for the user.
    """
    config, store = run_dir.config, run_dir.store
    staged = staged_shards(run_dir)
    others = [s for s in staged if s.content.classes != classes or is_stale(store, s)]
    publish(run_dir, others)
    make_corpora(config)
    rows = _rows_to_retry(run_dir, classes, console)
    found = Retried(failed=None)
    if rows:
        with session(config.cluster), StopSignal(store, config.run.grace_seconds, console.print) as stop:
            progress, board = Progress(console), StatusBoard()
            progress.poll = board.read
            context = RunContext(run_dir, progress, board, stop)
            found.failed = _fetch_again(context, RetryConfig(run_dir=store, classes=classes), rows)
    run_dir.lease.check()
    staged = staged_shards(run_dir)
    for each in staged:
        found.asked += each.content.asked
        found.status.update(each.content.status)
    changed, _ = publish(run_dir, staged)
    clear_staging(store)
    found.shards, found.changed = len(staged), len(changed)
    found.again = [name for name in run_dir.nodes if run_dir.ledger.node(name) is None]
    found.trained = _first_training(run_dir, found.again)
    return found


def _rows_to_retry(run_dir: RunDir, classes: Sequence[str], console: Console) -> dict[tuple[str, int], int]:
    """(source, shard) → rows with these statuses, by the commit records."""
    found = {}
    for source in run_dir.config.sources:
        folder = corpus_folder(source)
        if not run_dir.ledger.committed(folder):
            continue
        store = run_dir.store / index_folder(source)
        index = read_index(store)
        if index is not None and index.tars == index.shards:
            console.print(
                f"{NAME:<13} {source}: its images came with tars, there is nothing to download again"
            )
            continue
        for record in run_dir.ledger.records(folder):
            rows = sum(record.rows.status.get(name, 0) for name in classes)
            if not rows or (index is not None and index.of_tars and _is_tar(store, record.shard)):
                continue
            if record.fingerprint != run_dir.fingerprints.corpus(source):
                raise ConfigError(
                    f"{folder} was fetched with other settings than the config has now; retry with the same sizes "
                    "and limits (time limits and speeds may differ), or fetch all of it with --fresh fetch"
                )
            found[source, record.shard] = rows
    return found


def _is_tar(index: Store, shard: int) -> bool:
    return read_slice(index, shard)["tar"][0].as_py() is not None


def _fetch_again(context: RunContext, config: RetryConfig, rows: dict[tuple[str, int], int]) -> str | None:
    """Stage the next generation of these shards; why some could not be staged, None if all were."""
    progress = context.progress
    pool = ThreadPoolExecutor(1, thread_name_prefix="capfilt-retry")
    try:
        with progress:
            progress.begin(NAME)
            work = pool.submit(_stage_shards, context, config, rows)
            _wait_for(context, work)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # as in `pipeline.execute`
    if context.stop.signum is not None:
        progress.end(NAME, "shards that are downloaded again stay so", "stopped")
        raise Interrupted(context.stop.signum)
    if (error := work.exception()) is not None:
        progress.end(NAME, "", "failed")
        return f"{describe_failure(context, NAME, error)}; the same command retries the rest"
    left = work.result()
    context.store.remove_file(failure_log(NAME))
    summary = f"{sum(rows.values()):,} rows of {len(rows):,} shards"
    progress.end(NAME, summary, "failed" if left else "done")
    if not left:
        return None
    first = f"shard {left[0]['shard']} of {left[0]['source']}"
    return (
        f"{NAME}: {len(left)} of {len(rows)} shards failed in every attempt (first: {first}); "
        f"{failure_causes(context, NAME)}; they are unchanged, the same command tries them again"
    )


def _wait_for(context: RunContext, work: Future[list[Shard]]) -> None:
    """Wait for the thread, draw the progress, and watch the lease and the signals."""
    while not work.done():
        context.run_dir.lease.check()
        if context.stop.overdue:
            raise Interrupted(context.stop.signum or 0)
        wait([work], timeout=POLL_SECONDS)
        context.progress.draw()


def _stage_shards(context: RunContext, config: RetryConfig, rows: dict[tuple[str, int], int]) -> list[Shard]:
    """Run the chain over the shards that are not staged; returns those that are still not staged afterwards."""
    sources = tuple(dict.fromkeys(source for source, _ in rows))

    def missing() -> list[Shard]:
        staged = {(s, n) for s in sources for n in context.ledger.committed(staging_folder(s))}
        return [{"source": s, "shard": n} for s, n in rows if (s, n) not in staged]

    before = sum(rows.values()) - sum(rows[m["source"], m["shard"]] for m in missing())
    context.progress.set_total(NAME, sum(rows.values()), unit="rows")
    done: Counter[str] = Counter()

    def on_result(result: dict[str, Any]) -> None:
        staged = msgspec.json.decode(result["records"], type=dict[str, StagedShard])["retry"]
        done.update(staged.status)
        context.progress.advance(NAME, before + done.total(), status_summary(done))

    with ExitStack() as stack:
        configs = fetch_configs(context.config, sources, stack)
        steps = partial(retry_steps, config, configs)
        return stream_shards(context, ShardWork(NAME, steps, missing, on_result))


def _first_training(run_dir: RunDir, again: list[str]) -> str | None:
    """The first training after a node that has work again, if it is done: it saw the images of before."""
    nodes = run_dir.nodes
    after = {later for name in again for later in downstream(nodes, name)}
    trained = [n for n in nodes if n in after and nodes[n].kind.trains]
    return next((name for name in trained if run_dir.ledger.node(name) is not None), None)


def closing_lines(found: Retried, run_dir: str, command: str, go_on: str) -> list[tuple[str, str]]:
    """(label, value) of the last lines: what was done, where it is, and what comes next.

    Args:
        command: the retry itself.
        go_on: makes the rest of the run.
    """
    lines = [
        (
            "retried",
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
                f"{found.trained} stays as it is; {go_on} --fresh {found.trained} trains it again",
            )
        )
    return [*lines, ("continue", go_on)]
