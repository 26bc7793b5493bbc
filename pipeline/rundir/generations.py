"""Replaces committed corpus shards by their next generation; no reader ever counts a mixture of two.

`stages.shards.retry` stages a generation completely: `replacing/<source>/000012.json` is created last and
lists the files. From then on any process that holds the lease of the run directory can finish the
replacement, wherever it was interrupted. The steps are:

    reopen the nodes that used the shard → remove the records of its candidates → remove its own record →
    give tar and Parquet their final names, one rename each → create the new record → remove staged files

Between the two records the shard does not count: a reader sees the old record, no record, or the new record.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from capfilt.pipeline.rundir.ledger import LedgerError
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.shards.records import StagedShard, decode_staged, encode
from capfilt.stages.storage.layout import (
    STAGING,
    ShardFiles,
    candidates_shard,
    corpus_shard,
    staged_shard,
    staging_folder,
)
from capfilt.stages.storage.store import DECODE_ERRORS, Store, sha256

THREADS = 8
"""Shards that are read or replaced at the same time."""


@dataclass(frozen=True)
class Replacement:
    """A corpus shard whose next generation is staged in `replacing/`."""

    source: str
    shard: int
    staged: StagedShard
    """The record of the staged generation."""

    @property
    def staged_files(self) -> ShardFiles:
        """Where the next generation is staged."""
        return staged_shard(self.source, self.shard)

    @property
    def corpus_files(self) -> ShardFiles:
        """Where the next generation will be."""
        return corpus_shard(self.source, self.shard)


def find_replacements(run_dir: RunDir) -> list[Replacement]:
    """Every shard whose staging is complete, by source and number.

    Raises:
        LedgerError: the record of a staged shard is damaged.
    """
    places = [
        (source, shard)
        for source in run_dir.store.list(STAGING)
        for shard in run_dir.ledger.committed_shards(staging_folder(source))
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda place: _read_replacement(run_dir.store, *place), places))


def _read_replacement(store: Store, source: str, shard: int) -> Replacement:
    name = staged_shard(source, shard).record
    try:
        return Replacement(source, shard, decode_staged(store.read(name)))
    except DECODE_ERRORS as error:
        raise LedgerError(
            f"{store.address(name)}: damaged ({error}); capfilt verify {store.url} --repair removes it, and "
            "its shard is retried or fetched again"
        ) from error


def publish(run_dir: RunDir, replacements: Iterable[Replacement]) -> tuple[list[Replacement], list[str]]:
    """Replace these shards, or finish replacing them. The lease is confirmed before each shard.

    Returns:
        The replacements that have changed a shard, and the names of the nodes that have work again.
    """
    replacements = list(replacements)
    changed = [
        each for each in replacements if each.staged.record is not None and not is_stale(run_dir.store, each)
    ]

    def replace(each: Replacement) -> None:
        run_dir.lease.confirm()
        _replace(run_dir, each)

    run_dir.lease.confirm()
    reopened = _reopen_nodes(run_dir, {each.source for each in changed})
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(replace, changed))
        list(pool.map(lambda each: _remove_staged_files(run_dir.store, each), replacements))
    return changed, reopened


def finish_replacing(run_dir: RunDir) -> None:
    """Publish what an interrupted `capfilt retry` has staged completely; else shards may be missing from the
    corpus."""
    if replacements := find_replacements(run_dir):
        publish(run_dir, replacements)
    clear_staging(run_dir.store)


def clear_staging(store: Store) -> None:
    """Remove what is left in `replacing/`: files of attempts that died or came second."""
    store.remove(STAGING)


def is_stale(store: Store, replacement: Replacement) -> bool:
    """Whether the committed shard has changed since the replacement was staged; then it is not published."""
    current = store.find(replacement.corpus_files.record)
    if current is None:
        return False  # interrupted between the two records
    record = replacement.staged.record
    is_published = record is not None and current == encode(record)
    return not is_published and sha256(current) != replacement.staged.replaces


def _reopen_nodes(run_dir: RunDir, sources: set[str]) -> list[str]:
    """Reopen the nodes that fetched or judged shards of these sources, and discard nodes with stale output.

    Returns:
        Names of the nodes that have work again.
    """
    kinds = {run_dir.source_kind(source) for source in sources}
    reopened = []
    for name, node in run_dir.nodes.items() if sources else ():
        if node.kind.streams_shards:
            if sources.isdisjoint(node.sources):
                continue
            run_dir.ledger.reopen(name)
        elif node.kind.is_stale_after(kinds) and run_dir.ledger.node(name) is not None:
            run_dir.ledger.discard(name, node.outputs)
        else:
            continue
        reopened.append(name)
    return reopened


def _replace(run_dir: RunDir, replacement: Replacement) -> None:
    """Replace one shard. Any step may have been done before an interruption."""
    store, corpus, record = run_dir.store, replacement.corpus_files, replacement.staged.record
    assert record is not None, "only changed shards are replaced"
    for node in run_dir.nodes.values():
        if node.kind.judges and replacement.source in node.sources:
            store.remove_file(candidates_shard(node.round, replacement.source, replacement.shard).record)
    if store.find(corpus.record) == encode(record):
        return
    store.remove_file(corpus.record)
    for final_name, staged_name in replacement.staged.files.items():
        store.move(f"{replacement.staged_files.folder}/{staged_name}", corpus.path(final_name))
    store.create(corpus.record, encode(record))


def _remove_staged_files(store: Store, replacement: Replacement) -> None:
    for name in replacement.staged.files.values():
        store.remove_file(f"{replacement.staged_files.folder}/{name}")
    store.remove_file(replacement.staged_files.record)
