"""Putting the next generation of corpus shards in place, so that no reader ever counts a mixture of two.

`stages.shards.retry` stages a generation completely: `replacing/<source>/000012.json` is created last and lists the
files. From then on the replacement can be finished by any process that holds the run's lease, wherever it was
interrupted:

    reopen the nodes that used the shard → remove the records of its candidates → remove its own record → give tar and
    Parquet their final names, one rename each → create the new record → remove what was staged

Between its two records the shard does not count; a reader sees the old one, none, or the new one.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
from capfilt.stages.storage.store import Store, sha256

THREADS = 8


@dataclass(frozen=True)
class Staged:
    """A shard in `replacing/`."""

    source: str
    shard: int
    content: StagedShard

    @property
    def place(self) -> ShardFiles:
        """Where it is staged."""
        return staged_shard(self.source, self.shard)

    @property
    def corpus(self) -> ShardFiles:
        """Where it will be."""
        return corpus_shard(self.source, self.shard)


def staged_shards(run_dir: RunDir) -> list[Staged]:
    """Every shard whose staging is complete, by source and number."""
    store = run_dir.store
    places = [
        (source, shard)
        for source in store.list(STAGING)
        for shard in run_dir.ledger.committed(staging_folder(source))
    ]

    def read(each: tuple[str, int]) -> Staged:
        return Staged(*each, decode_staged(store.read(staged_shard(*each).record)))

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(read, places))


def publish(run_dir: RunDir, staged: Iterable[Staged]) -> tuple[list[Staged], list[str]]:
    """Put these shards in place, or finish doing so. The run's lease is confirmed before each shard.

    Returns:
        The shards that have changed, and the names of the nodes that have work again.
    """
    staged = list(staged)
    current = [
        each for each in staged if each.content.record is not None and not is_stale(run_dir.store, each)
    ]

    def replace(each: Staged) -> None:
        run_dir.lease.confirm()
        _replace(run_dir, each)

    run_dir.lease.confirm()
    reopened = _reopen(run_dir, {each.source for each in current})
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(replace, current))
        list(pool.map(lambda each: _remove_staged(run_dir.store, each), staged))
    return current, reopened


def finish_replacing(run_dir: RunDir) -> None:
    """Put in place what an interrupted `capfilt retry` has staged completely; else the corpus would have gaps."""
    if staged := staged_shards(run_dir):
        publish(run_dir, staged)
    clear_staging(run_dir.store)


def clear_staging(store: Store) -> None:
    """Remove what is left of staging: files of attempts that died or came second."""
    store.remove(STAGING)


def is_stale(store: Store, staged: Staged) -> bool:
    """Whether the committed shard has changed since this one was staged, so that this one is to be dropped."""
    current = store.get(staged.corpus.record)
    if current is None:
        return False  # interrupted between the two records
    is_published = staged.content.record is not None and current == encode(staged.content.record)
    return not is_published and sha256(current) != staged.content.replaces


def _reopen(run_dir: RunDir, sources: set[str]) -> list[str]:
    """Reopen the nodes that fetched or judged shards of these sources, and forget what is stale without them: reports,
    and evaluations on changed test images. Trained models stay, as after `verify --repair`: they were right when they
    were made."""
    kinds = {run_dir.source_kind(source) for source in sources}
    reopened = []
    for name, node in run_dir.nodes.items() if sources else ():
        if node.kind.streams_shards:
            if not sources & set(node.sources):
                continue
            run_dir.ledger.reopen(name)
        elif kinds & set(node.kind.stale_after):
            if run_dir.ledger.node(name) is None:
                continue
            run_dir.ledger.forget(name, node.outputs)
        else:
            continue
        reopened.append(name)
    return reopened


def _replace(run_dir: RunDir, staged: Staged) -> None:
    """Each step may have been done before an interruption."""
    store, corpus, record = run_dir.store, staged.corpus, staged.content.record
    assert record is not None, "only changed shards are put in place"
    for node in run_dir.nodes.values():
        if node.kind.judges and staged.source in node.sources:
            store.remove_file(candidates_shard(node.round, staged.source, staged.shard).record)
    if store.get(corpus.record) == encode(record):
        return
    store.remove_file(corpus.record)
    for final, name in staged.content.files.items():
        store.move(f"{staged.place.folder}/{name}", f"{corpus.folder}/{final}")
    store.create(corpus.record, encode(record))


def _remove_staged(store: Store, staged: Staged) -> None:
    for name in staged.content.files.values():
        store.remove_file(f"{staged.place.folder}/{name}")
    store.remove_file(staged.place.record)
