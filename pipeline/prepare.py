"""Everything that can be refused before a process starts: the config's DAG, its inputs, and what is on disk.

Ray and torch are not imported here, so that a mistake is told in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from capfilt.pipeline.config.load import ConfigError, dump_config
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.start_weights import check_starts
from capfilt.pipeline.plan import Node, check_node, downstream, plan, select
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.generations import clear_staging, publish, staged_shards
from capfilt.pipeline.rundir.lease import Lease, hold
from capfilt.pipeline.rundir.ledger import Ledger, State
from capfilt.pipeline.rundir.outputs import VOCABULARY, outputs_of
from capfilt.pipeline.rundir.probe import check_writable
from capfilt.stages.manifest.index import check_manifest, check_unchanged
from capfilt.stages.storage.store import Store


@dataclass(frozen=True)
class Prepared:
    """A run that may start: what there is to do, and in what state it stands."""

    config: Config
    store: Store
    ledger: Ledger
    nodes: dict[str, Node]
    """The whole DAG."""
    wanted: dict[str, Node]
    """The part of it that was asked for."""
    prints: Fingerprints
    state: dict[str, State]

    @property
    def todo(self) -> dict[str, Node]:
        return {name: node for name, node in self.wanted.items() if self.state[name] != "done"}


@contextmanager
def hold_run(config: Config, tell: Callable[[str], None]) -> Iterator[Lease]:
    """The right to write in the config's run directory, for the body's duration.

    Args:
        tell: receives a line when another owner's lease is waited for.

    Raises:
        StoreError, LedgerError: it cannot be written, or holds something else.
        LeaseError: another run is at work there.
    """
    store = Store(config.run.dir, config.run.storage_options)
    check_writable(store)
    Ledger(store).check_place()
    with hold(store, tell) as lease:
        yield lease


def prepare(config: Config, lease: Lease, *, until: str | None = None, fresh: str | None = None) -> Prepared:
    """Check everything about running the config's DAG up to `until`, after forgetting `fresh` and what depends on
    it; make the demonstration corpora that the config asks for.

    Args:
        lease: what `hold_run` gives.

    Raises:
        ArtifactError, ConfigError, LeaseError, LedgerError, ManifestError, StoreError, UnknownNode: one line for the
            user.
    """
    nodes = plan(config)
    wanted = select(nodes, until=until)
    store = Store(config.run.dir, config.run.storage_options)
    ledger = Ledger(store)
    make_corpora(config)
    check_sources(config)
    store.remove_temporaries("", "config.yaml")
    for folder in ("corpus", "nodes"):
        store.remove_temporaries(folder)
    finish_replacing(config, store, ledger, nodes, lease)
    prints = Fingerprints(config, nodes)
    if fresh is not None:
        forget(config, ledger, nodes, fresh, lease)
    for name, source in config.sources.items():
        check_unchanged(source.rows, store / f"corpus/{name}/index", f"sources.{name}")
    # Refuse a changed config before the first process starts.
    state = {name: ledger.state(name, prints.inputs(name)) for name in nodes}
    ledger.clear_starts(name for name in nodes if state[name] == "done")
    check_starts(config, store, [node for name, node in wanted.items() if state[name] != "done"])
    ledger.save_config(dump_config(config))
    return Prepared(config, store, ledger, nodes, wanted, prints, state)


def finish_replacing(
    config: Config, store: Store, ledger: Ledger, nodes: dict[str, Node], lease: Lease
) -> None:
    """What a `capfilt retry` that was broken off has ready takes its place, or the corpus would have holes."""
    kinds = {name: source.kind for name, source in config.sources.items()}
    if staged := staged_shards(store, ledger):
        publish(store, ledger, nodes, kinds, staged, lease)
    clear_staging(store)


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
        from capfilt.pipeline.corpora.shapes import make_shapes

        make_corpus(make_shapes, config.shapes, config.shapes_dir)
    if config.clipart is not None:
        from capfilt.pipeline.corpora.clipart import make_clipart

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
    """Every manifest can be found and its first row read.

    Raises:
        ManifestError: the first that cannot.
    """
    for name, source in config.sources.items():
        check_manifest(source.rows, f"sources.{name}")


def forget(config: Config, ledger: Ledger, nodes: dict[str, Node], name: str, lease: Lease) -> None:
    """Remove a node's outputs and records, and those of every node that needs it, the last ones first.

    `fetch` stands for the images of all sources, also of those that a bootstrap fetches.
    """
    carried = _fetched_by_bootstrap(config, nodes)
    if name != "fetch" or not carried:
        check_node(nodes, name, "--fresh")
    names = set(downstream(nodes, name))
    if name == "fetch" and carried:
        names |= set(downstream(nodes, "bootstrap.1"))
    vocabulary_of = next((each for each, node in nodes.items() if node.kind == "pretrain"), None)
    for each in reversed([each for each in nodes if each in names]):
        outputs = outputs_of(nodes[each])
        if each == "bootstrap.1" and name == "fetch":
            outputs += [f"corpus/{source}" for source in carried]
        if each == vocabulary_of:
            outputs.append(VOCABULARY)
        lease.confirm()
        ledger.forget(each, outputs)


def _fetched_by_bootstrap(config: Config, nodes: dict[str, Node]) -> list[str]:
    """Web sources whose images come with the first bootstrap, in one pass."""
    elsewhere = nodes["fetch"].sources if "fetch" in nodes else ()
    return [source for source in config.of_kind("web") if source not in elsewhere]
