"""Putting a corpus shard's next generation in its place, so that nobody ever counts a mixture of two.

`stages.shards.retry` stages a generation whole: `replacing/<source>/000012.json` is created last and lists the files. From then
on the replacement can be finished by anyone who holds the run's lease, from any point at which it was broken off:

    nodes that used the shard are reopened → its candidates' records go → its own record goes → tar and Parquet take
    their final names, one rename each → the new record is created → what was staged goes

Between its records the shard does not count; a reader sees the old one, none, or the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from capfilt.pipeline.plan import Node
from capfilt.pipeline.rundir.lease import Lease
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.outputs import outputs_of
from capfilt.stages.shards.retry import STAGING
from capfilt.stages.storage.store import Store, encode_json, sha256

THREADS = 8


@dataclass(frozen=True)
class Staged:
    """A shard in `replacing/`."""

    source: str
    shard: int
    content: dict[str, Any]
    """What `stages.shards.retry.StageRetried` wrote."""

    @property
    def name(self) -> str:
        return f"{self.shard:06d}"


def staged_shards(run: Store, ledger: Ledger) -> list[Staged]:
    """Every shard whose staging is complete, by source and number."""
    found = [
        (source, shard) for source in run.list(STAGING) for shard in ledger.committed(f"{STAGING}/{source}")
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        contents = pool.map(lambda each: run.read_json(f"{STAGING}/{each[0]}/{each[1]:06d}.json"), found)
        return [
            Staged(source, shard, content) for (source, shard), content in zip(found, contents, strict=True)
        ]


def publish(
    run: Store,
    ledger: Ledger,
    nodes: dict[str, Node],
    kinds: Mapping[str, str],
    staged: Iterable[Staged],
    lease: Lease,
) -> tuple[list[Staged], list[str]]:
    """Replace these shards, or finish replacing them.

    Args:
        kinds: source → kind, from the config.
        lease: the right to do so, asked for before each shard.

    Returns:
        The shards that are others now, and the names of the nodes that have work again.
    """
    staged = list(staged)
    fresh = [each for each in staged if each.content["record"] is not None and not is_stale(run, each)]

    def replace(each: Staged) -> None:
        lease.confirm()
        _replace(run, nodes, each)

    lease.confirm()
    again = _reopen(ledger, nodes, kinds, {each.source for each in fresh})
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(replace, fresh))
        list(pool.map(lambda each: _clear(run, each), staged))
    return fresh, again


def clear_staging(run: Store) -> None:
    """Remove what is left of staging: files of attempts that died or lost."""
    run.remove(STAGING)


def is_stale(run: Store, staged: Staged) -> bool:
    """Whether somebody made the shard anew since it was staged: nobody wants this generation any more."""
    place = f"corpus/{staged.source}/{staged.name}.json"
    if not run.exists(place):
        return False  # broken off between the records
    current = run.read(place)
    known = current == encode_json(staged.content["record"])
    return not known and sha256(current) != staged.content["replaces"]


def _reopen(ledger: Ledger, nodes: dict[str, Node], kinds: Mapping[str, str], sources: set[str]) -> list[str]:
    """Nodes that fetched or judged shards of these sources count anew, reports and what was measured on changed test
    pictures are made anew. Trained models stay: they were right when they were made, as after `verify --repair`."""
    again = []
    for name, node in nodes.items() if sources else ():
        if node.kind in ("fetch", "bootstrap"):
            if not sources & set(node.sources):
                continue
            ledger.reopen(name)
        elif node.kind == "report" or (node.kind == "evaluate" and "test" in {kinds[s] for s in sources}):
            if ledger.node(name) is None:
                continue
            ledger.forget(name, outputs_of(node))
        else:
            continue
        again.append(name)
    return again


def _replace(run: Store, nodes: dict[str, Node], staged: Staged) -> None:
    """Each step may find itself done."""
    for node in nodes.values():
        if node.kind == "bootstrap" and staged.source in node.sources:
            run.remove_file(f"rounds/{node.round}/{staged.source}/{staged.name}.json")
    folder, record = f"corpus/{staged.source}", encode_json(staged.content["record"])
    place = f"{folder}/{staged.name}.json"
    if run.exists(place) and run.read(place) == record:
        return
    run.remove_file(place)
    for final, name in staged.content["files"].items():
        run.move(f"{STAGING}/{staged.source}/{name}", f"{folder}/{final}")
    run.create(place, record)


def _clear(run: Store, staged: Staged) -> None:
    for name in staged.content["files"].values():
        run.remove_file(f"{STAGING}/{staged.source}/{name}")
    run.remove_file(f"{STAGING}/{staged.source}/{staged.name}.json")
