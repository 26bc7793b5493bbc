"""Takes the output of nodes over from other run directories, where equal nodes are done already.

Nodes with equal fingerprints have equal output. Runs that differ in a few keys, such as the rows of an
ablation, so share everything that these keys do not reach: one of them does the work, the others link its
files (hard links on a disk, copies made by the server on an object store).

The start record names the other run directory from before the first file until the node is done. A takeover
that was interrupted, or whose node was begun again there meanwhile, is undone as a whole: a shard of one
generation could have got the record of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec import UNSET

from capfilt.pipeline.config.load import dump_config
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.ledger import Ledger, LedgerError
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.storage.layout import CONFIG, RECORD_SUFFIX, RECORDS, source_folders
from capfilt.stages.storage.run_store import RunStore

THREADS = 32
"""Files that are copied at the same time on an object store; on a disk one after the other is linked."""


def take_over(run_dir: RunDir, donors: Sequence[RunStore]) -> dict[str, str]:
    """Take over every node that is new here and done with equal inputs in one of the donors.

    A node is taken only after the nodes that it needs. Reports are not taken: they tell of their own run.

    Args:
        run_dir: with the right to write.
        donors: other run directories on the same filesystem, the preferred ones first. They may be in use.

    Returns:
        {node: run directory that it was taken from}.

    Raises:
        LeaseError: another process has taken the run directory over.
        LedgerError: a record of `run_dir` is damaged.
    """
    ledgers = [Ledger(donor) for donor in donors if not donor.is_older]
    if run_dir.store.is_older or not ledgers:
        return {}
    if not run_dir.store.exists(CONFIG):
        run_dir.ledger.save_config(dump_config(run_dir.config))
    undo_interrupted(run_dir)
    taken: dict[str, str] = {}
    done: set[str] = set()
    for name, node in run_dir.nodes.items():
        if not done.issuperset(node.needs) or node.kind.summarizes:
            continue
        if run_dir.ledger.node(name) is not None:
            done.add(name)
        elif run_dir.ledger.begun(name) is None:
            donor = next((each for each in ledgers if _take(run_dir, node, each)), None)
            if donor is not None:
                done.add(name)
                taken[name] = donor.store.url
    return taken


def undo_interrupted(run_dir: RunDir) -> None:
    """Remove what a takeover that was interrupted has left; the node is new again.

    Raises:
        LeaseError: another process has taken the run directory over.
    """
    begun = {name: run_dir.ledger.begun(name) for name in run_dir.nodes}
    for name, record in begun.items():
        if record is None or record.taken_from is UNSET:
            continue
        run_dir.lease.confirm()
        node = run_dir.nodes[name]
        users = [
            n.name for n in run_dir.nodes.values() if n.kind.trains == node.kind.trains and n is not node
        ]
        in_use = any(begun[user] is not None or run_dir.ledger.node(user) is not None for user in users)
        shared = () if in_use else node.kind.shared_outputs
        run_dir.ledger.discard(name, [*_folders(run_dir, node), *shared])


def _take(run_dir: RunDir, node: Node, donor: Ledger) -> bool:
    """Take a node over from one run directory; False if it is not done there, or no longer."""
    try:
        record = donor.node(node.name)
    except LedgerError:
        return False  # `capfilt verify` of that run directory is the place to hear of it
    if record is None or record.fingerprint != run_dir.fingerprints.of(node.name):
        return False
    run_dir.lease.confirm()
    run_dir.ledger.start_taking(record, donor.store.url)
    folders = _folders(run_dir, node)
    for folder in (*folders, *node.kind.shared_outputs):
        _take_files(run_dir, donor, donor.store.walk(folder))
        run_dir.store.remove_temporaries(folder)
    # Whoever changes the output of a done node removes its record first.
    if donor.node(node.name) != record:
        run_dir.ledger.discard(node.name, folders)
        return False
    run_dir.ledger.finish_taking(record, donor.store.url)
    return True


def _take_files(run_dir: RunDir, donor: Ledger, names: Sequence[str]) -> None:
    """Take files over: data before records (`*.json`), since a record says that its files are there."""
    for records in (False, True):
        chosen = [name for name in names if name.endswith(RECORD_SUFFIX) == records]
        if run_dir.store.is_local:
            for name in chosen:
                run_dir.store.take(donor.store, name)
        else:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda name: run_dir.store.take(donor.store, name), chosen))


def _folders(run_dir: RunDir, node: Node) -> list[str]:
    """Folders that hold the output of a node, those with records of shards last."""
    return sorted(dict.fromkeys(_all_folders(run_dir, node)), key=lambda each: each.startswith(f"{RECORDS}/"))


def _all_folders(run_dir: RunDir, node: Node) -> Iterator[str]:
    yield from node.outputs
    fetched = run_dir.nodes["fetch"].sources if "fetch" in run_dir.nodes else ()
    if node.kind.judges and node.round == 1:
        # Images that no fetch node downloads are downloaded by the first bootstrap.
        for source in node.sources:
            if source not in fetched:
                yield from source_folders(source)
