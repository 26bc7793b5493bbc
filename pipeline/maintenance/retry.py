"""`capfilt retry`: downloads rows that failed again, in place. The rest of the corpus does not change."""

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
from capfilt.cluster.nodes import ask_each_node, count_nodes
from capfilt.cluster.session import session
from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.console.activity import Activity, hidden_activity
from capfilt.pipeline.console.progress import POLL_SECONDS, Progress
from capfilt.pipeline.console.signals import Interrupted, StopSignal
from capfilt.pipeline.console.throughput import FinishedShard, Throughput
from capfilt.pipeline.metrics.run_metrics import RunMetrics
from capfilt.pipeline.nodes.chain import fetch_configs, retry_steps
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.failures import describe_failure, failure_causes
from capfilt.pipeline.nodes.shards import Shard, ShardWork, stream_shards
from capfilt.pipeline.plan import downstream
from capfilt.pipeline.prepare import make_corpora
from capfilt.pipeline.rundir.contents.totals import status_summary
from capfilt.pipeline.rundir.generations import clear_staging, find_replacements, is_stale, publish
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.pipeline.rundir.shared_paths import check_shared_paths
from capfilt.stages.manifest.index import Index, read_index, read_shard
from capfilt.stages.shards.commit import stage_seconds_of
from capfilt.stages.shards.records import StagedShard
from capfilt.stages.shards.retry import RetryConfig
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import corpus_folder, failure_log, index_folder, staging_folder
from capfilt.stages.storage.store import Store

NAME = "retry"
"""Name of the work on the progress display, on the status board and in messages."""


@dataclass
class Retried:
    """Result of a retry."""

    rows: int = 0
    """Rows that were downloaded again."""
    status: Counter[str] = field(default_factory=Counter)
    """These rows by their status now."""
    shards: int = 0
    """Shards that hold these rows."""
    changed: int = 0
    """Shards in which a row has another status now."""
    unfinished: list[str] = field(default_factory=list)
    """Nodes that are not done, because of this retry or from before."""
    trained_before: str | None = None
    """The first training that read the corpus as it was before the retry; None if there is none."""
    failed: str | None = None
    """Why some shards could not be retried; None if all were."""


def retry_rows(
    run_dir: RunDir,
    classes: tuple[str, ...],
    console: Console,
    resume: str | None = None,
    activity: Activity | None = None,
) -> Retried:
    """Download the corpus rows with these statuses again, and replace the shards in which a status has
    changed.

    Shards that an interrupted retry of the same statuses has staged are not downloaded again.

    Args:
        run_dir: as `hold_run` gives it.
        classes: statuses, sorted.
        resume: the command that a second signal prints.
        activity: shows what is done before the download and after it; None shows nothing.

    Raises:
        ConfigError: the corpus was fetched with other settings than the config has.
        Interrupted: a signal came; what is staged is published by the next retry or the next run.
        ClusterError, LeaseError, ManifestError, StoreError: one line for the user.
    """
    config, store = run_dir.config, run_dir.store
    activity = activity or hidden_activity()
    activity("reading the records of the corpus")
    staged = find_replacements(run_dir)
    publish(run_dir, [each for each in staged if each.staged.classes != classes or is_stale(store, each)])
    make_corpora(config)
    rows = _rows_to_retry(run_dir, classes, console)
    result = Retried()
    if rows:
        activity("starting Ray")
        stopping = StopSignal(store, config.run.grace_seconds, console.print, resume)
        with stopping as stop, session(config.cluster):
            check_shared_paths(config, store, count_nodes(), ask_each_node)
            progress, board = Progress(console), StatusBoard()
            progress.poll = partial(board.read, timeout=POLL_SECONDS)
            context = RunContext(run_dir, progress, board, stop, RunMetrics.exported(config.run.dir))
            retry = RetryConfig(run_dir=store, classes=classes)
            activity.stop()
            result.failed = _fetch_again(context, retry, rows)
    activity("replacing shards")
    run_dir.lease.check()
    staged = find_replacements(run_dir)
    for each in staged:
        result.rows += each.staged.asked
        result.status.update(each.staged.status)
    changed, _ = publish(run_dir, staged)
    clear_staging(store)
    result.shards, result.changed = len(staged), len(changed)
    result.unfinished = [name for name in run_dir.nodes if run_dir.ledger.node(name) is None]
    result.trained_before = _first_training(run_dir, result.unfinished)
    return result


def _rows_to_retry(run_dir: RunDir, classes: Sequence[str], console: Console) -> dict[tuple[str, int], int]:
    """(source, shard) → number of rows with these statuses, by the commit records.

    Images that came in tars or Parquet files are left out: they have no url.

    Raises:
        ConfigError: the corpus was fetched with other settings than the config has.
    """
    found = {}
    for source in run_dir.config.sources:
        folder = corpus_folder(source)
        if not run_dir.ledger.committed_shards(folder):
            continue
        store = run_dir.store / index_folder(source)
        index = read_index(store)
        if index is not None and index.tars == index.shards:
            console.print(f"{NAME:<13} {source}: its images came in tars, there is nothing to download")
            continue
        for record in run_dir.ledger.records(folder):
            rows = sum(record.rows.status.get(name, 0) for name in classes)
            if not rows or (index is not None and _has_images(index, store, record.shard)):
                continue
            if record.fingerprint != run_dir.fingerprints.corpus(source):
                raise ConfigError(
                    f"{folder} was fetched with other settings than the config has now; retry with the same "
                    "sizes and limits (time limits and speeds may differ), or use --fresh fetch"
                )
            found[source, record.shard] = rows
    return found


def _has_images(index: Index, store: Store, shard: int) -> bool:
    """Whether the images of a shard came with the manifest, in a tar or in a Parquet file."""
    if not (index.has_tars or index.embedded):
        return False
    rows = read_shard(store, shard).slice(0, 1)
    return any(name in rows.column_names and rows[name][0].is_valid for name in ("tar", "image_file"))


def _fetch_again(context: RunContext, config: RetryConfig, rows: dict[tuple[str, int], int]) -> str | None:
    """Download the rows again and stage the next generation of their shards.

    Returns:
        Why some shards could not be staged, None if all were.
    """
    progress = context.progress
    pool = ThreadPoolExecutor(1, thread_name_prefix="capfilt-retry")
    try:
        with progress:
            progress.begin(NAME)
            context.metrics.begin(NAME)
            work = pool.submit(_stage_shards, context, config, rows)
            _wait_for(context, work)
    finally:
        context.metrics.end(NAME)
        pool.shutdown(wait=False, cancel_futures=True)  # for the reason given in `pipeline.execute`
    if context.stop.signum is not None:
        progress.end(NAME, "downloaded shards are kept", "stopped")
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
        f"{failure_causes(context, NAME)}; they are unchanged, the same command retries them"
    )


def _wait_for(context: RunContext, work: Future[list[Shard]]) -> None:
    """Draw the progress until the work is done; stop waiting when the lease is lost or the grace time is
    over."""
    while not work.done():
        context.run_dir.lease.check()
        if context.stop.overdue:
            raise Interrupted(context.stop.signum or 0)
        wait([work], timeout=POLL_SECONDS)
        context.progress.draw()
        context.metrics.look(context.progress)


def _stage_shards(context: RunContext, config: RetryConfig, rows: dict[tuple[str, int], int]) -> list[Shard]:
    """Run the chain over the shards that are not staged, until all are.

    Returns:
        The shards that could not be staged.
    """
    sources = tuple(dict.fromkeys(source for source, _ in rows))

    def missing() -> list[Shard]:
        staged = {(s, n) for s in sources for n in context.ledger.committed_shards(staging_folder(s))}
        return [{"source": s, "shard": n} for s, n in rows if (s, n) not in staged]

    total = sum(rows.values())
    before = total - sum(rows[m["source"], m["shard"]] for m in missing())
    done: Counter[str] = Counter()
    throughput = Throughput()
    context.progress.set_total(NAME, total, unit="rows")
    context.progress.advance(NAME, before)
    context.progress.describe(NAME, lambda board: throughput.describe(total - before - done.total(), board))

    def on_result(result: dict[str, Any]) -> None:
        staged = msgspec.json.decode(result["records"], type=dict[str, StagedShard])["retry"]
        done.update(staged.status)
        seconds = ({} if staged.record is None else staged.record.seconds) | stage_seconds_of(result)
        records = [] if staged.record is None else [staged.record]
        context.metrics.count_shard(NAME, records, staged.status, seconds)
        throughput.add(
            FinishedShard(
                units=staged.asked,
                rows=staged.asked,
                images=staged.status.get(SUCCESS, 0),
                verdicts={},
                seconds=seconds,
            )
        )
        context.progress.advance(NAME, before + done.total())

    with ExitStack() as stack:
        configs = fetch_configs(context.config, sources, stack, context.serving_host())
        steps = partial(retry_steps, config, configs)
        return stream_shards(context, ShardWork(NAME, steps, missing, on_result, throughput))


def _first_training(run_dir: RunDir, unfinished: list[str]) -> str | None:
    """The first training that is done although a node before it is not, so that it read the corpus before the
    retry."""
    nodes = run_dir.nodes
    later = {each for name in unfinished for each in downstream(nodes, name)}
    trainings = [name for name, node in nodes.items() if name in later and node.kind.trains]
    return next((name for name in trainings if run_dir.ledger.node(name) is not None), None)


def closing_lines(
    result: Retried, run_dir: str, retry_command: str, run_command: str
) -> list[tuple[str, str]]:
    """(label, value) of the last lines: what was done, where it is, and what comes next.

    Args:
        retry_command: the command of this retry.
        run_command: the command that runs the rest of the run.
    """
    lines = [
        ("retried", f"{result.rows:,} rows = {status_summary(result.status)}" if result.rows else "no row"),
        ("changed", f"{result.changed:,} of {result.shards:,} shards"),
        ("run", run_dir),
    ]
    if result.failed is not None:
        return [*lines, ("resume", retry_command)]
    if not result.unfinished:
        return [*lines, ("again", retry_command)]
    lines.append(("to do", ", ".join(result.unfinished)))
    if (name := result.trained_before) is not None:
        advice = f"{name} is unchanged; {run_command} --fresh {name} trains it again"
        lines.append(("trained before", advice))
    return [*lines, ("continue", run_command)]
