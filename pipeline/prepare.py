"""All checks that can refuse a run before its first process starts: the DAG, the inputs, and what is on disk.

Neither Ray nor torch is imported here, so that a mistake is reported within a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from capfilt.pipeline.config.load import ConfigError, dump_config
from capfilt.pipeline.config.paths import check_job_paths
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.activity import Tell, tell_nobody
from capfilt.pipeline.console.commands import resume_command
from capfilt.pipeline.foreign.inputs import check_captions, check_unchanged_captions
from capfilt.pipeline.node import Node
from capfilt.pipeline.plan import check_node, downstream, plan, select
from capfilt.pipeline.rundir.cutting import cut_manifest
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.generations import finish_replacing
from capfilt.pipeline.rundir.lease import hold
from capfilt.pipeline.rundir.ledger import Ledger, State
from capfilt.pipeline.rundir.probe import check_writable
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.pipeline.rundir.takeover import undo_interrupted
from capfilt.pipeline.rundir.verdict_sets import check_verdict_sets
from capfilt.pipeline.submission.record import record_job
from capfilt.pipeline.tasks.inputs import check_task_files
from capfilt.stages.carried.fields import has_extras
from capfilt.stages.manifest.index import check_manifest, check_unchanged
from capfilt.stages.storage.errors import explain_disk_errors
from capfilt.stages.storage.layout import (
    CONFIG,
    DUPLICATES,
    INDEX_RECORD,
    NODES,
    RECORDS,
    index_folder,
    source_folders,
)
from capfilt.stages.storage.run_store import RunStore


@dataclass(frozen=True)
class Prepared:
    """A run that may start: which nodes it consists of, and which of them are done."""

    run_dir: RunDir
    selected: dict[str, Node]
    """The part of the DAG that the user asked for."""
    state: dict[str, State]
    """State of every node of the DAG."""

    @property
    def todo(self) -> dict[str, Node]:
        """Selected nodes that are not done."""
        return {name: node for name, node in self.selected.items() if self.state[name] != "done"}


def open_run(config: Config) -> RunDir:
    """The config's run directory, for reading; it need not exist yet."""
    store, nodes = RunStore(config.run.dir, config.run.storage_options), plan(config)
    return RunDir(config, store, Ledger(store), nodes, Fingerprints(config, nodes))


@contextmanager
def hold_run(config: Config, notify: Callable[[str], None]) -> Iterator[RunDir]:
    """The config's run directory with the right to write in it, while the body runs.

    Args:
        notify: receives one line if the lease of another process has to be waited for.

    Raises:
        ConfigError: this is a Ray job, and a path is relative.
        StoreError: the directory cannot be written.
        LedgerError: the directory holds something else.
        LeaseError: another process works in the directory.
    """
    check_job_paths(config)
    run_dir = open_run(config)
    check_writable(run_dir.store)
    run_dir.ledger.check_place()
    with hold(run_dir.store, notify) as lease:
        record_job(run_dir.store)
        yield replace(run_dir, held=lease)


def prepare(
    run_dir: RunDir, *, until: str | None = None, fresh: Sequence[str] = (), tell: Tell = tell_nobody
) -> Prepared:
    """Check that the DAG can run, and bring the run directory into the state from which it runs.

    Makes the demonstration corpora that the config asks for, finishes an interrupted `capfilt retry`, and
    undoes an interrupted takeover of another run's output.

    Args:
        run_dir: as `hold_run` gives it.
        until: run only what this node needs, and the node itself.
        fresh: first discard these nodes and all nodes that need one of them.
        tell: receives what is done at the moment.

    Raises:
        ArtifactError, ConfigError, LeaseError, LedgerError, ManifestError, StoreError, UnknownNode: one line
            for the user.
    """
    config, store, ledger, nodes = run_dir.config, run_dir.store, run_dir.ledger, run_dir.nodes
    selected = select(nodes, until=until)
    tell("making the demonstration corpus")
    make_corpora(config)
    tell("checking the manifests")
    check_sources(config)
    check_captions(config)
    tell("looking through the run directory")
    store.remove_temporaries("", CONFIG)
    for folder in (DUPLICATES.partition("/")[0], RECORDS, NODES):
        store.remove_temporaries(folder)
    finish_replacing(run_dir)
    undo_interrupted(run_dir)
    if fresh:
        tell(f"removing what {', '.join(fresh)} and later nodes have made")
        discard(run_dir, fresh)
    for name, source in config.sources.items():
        check_unchanged(source.rows, store / index_folder(name), f"sources.{name}.rows")
        if has_extras(source.rows):
            # Ids that are missing or double, and columns of several files that do not fit, are found here.
            tell(f"cutting the manifest of {name} into shards")
            cut_manifest(run_dir, name)
    check_unchanged_captions(config, store)
    check_task_files(config, store)
    tell("comparing the run directory with the config, and reading checkpoints")
    state = states(run_dir)
    ledger.clear_starts(name for name in nodes if state[name] == "done")
    prepared = Prepared(run_dir, selected, state)
    check_verdict_sets(run_dir, prepared.todo, resume_command(config.run.dir, []))
    tell("opening checkpoints")
    for kind in dict.fromkeys(node.kind for node in prepared.todo.values()):
        kind.check_inputs(config, store)
    ledger.save_config(dump_config(config))
    return prepared


def states(run_dir: RunDir) -> dict[str, State]:
    """State of every node of the DAG.

    Raises:
        LedgerError: a node was made or begun with another config.
    """
    ledger, known = run_dir.ledger, run_dir.fingerprints
    return {
        name: ledger.state(name, known.inputs(name), known.given(name), is_summary=node.kind.summarizes)
        for name, node in run_dir.nodes.items()
    }


def make_corpora(config: Config) -> None:
    """Make the demonstration corpora that the config asks for, unless they exist."""
    if config.shapes is not None:
        from capfilt.pipeline.corpora.shapes import make_shapes

        make_corpus(make_shapes, config.shapes, config.shapes_dir)
    if config.clipart is not None:
        from capfilt.pipeline.corpora.clipart import make_clipart

        make_corpus(make_clipart, config.clipart, config.clipart_dir)


def make_corpus(make: Callable[[Any, str], object], config: object, folder: str) -> None:
    """Make a demonstration corpus in `folder`, unless it exists.

    Args:
        make: `make_shapes` or `make_clipart`.
        config: the section of the config that `make` takes.

    Raises:
        ConfigError: the folder holds something else, or a program that makes the corpus is missing.
        StoreError: the disk takes no more data.
    """
    try:
        with explain_disk_errors(folder):
            make(config, folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_sources(config: Config) -> None:
    """Check that every manifest exists, and that its first rows can be read and have texts.

    A source that an earlier version has cut into shards without texts may go on without them.

    Raises:
        ManifestError: the first that cannot.
    """
    store = RunStore(config.run.dir, config.run.storage_options)
    for name, source in config.sources.items():
        is_cut = store.exists(f"{index_folder(name)}/{INDEX_RECORD}")
        check_manifest(source.rows, f"sources.{name}.rows", with_texts=not is_cut)


def discard(run_dir: RunDir, names: Sequence[str]) -> None:
    """Remove the outputs and records of nodes and of all nodes that need one of them, the last of them first.

    Args:
        names: the nodes. "fetch" stands for the images of all sources, also for those that a bootstrap
            downloads.

    Raises:
        UnknownNode: there is no such node; nothing is removed.
        LeaseError: another process has taken the run directory over.
    """
    nodes = run_dir.nodes
    in_bootstrap = _downloaded_by_bootstrap(run_dir)
    for name in names:
        if name != "fetch" or not in_bootstrap:
            check_node(nodes, name, "--fresh")
    roots = set(names)
    if "fetch" in names and "join" in nodes:  # the manifest may be another one now
        roots.add("join")
    if "fetch" in names and in_bootstrap:
        roots.add("bootstrap.1")
    discarded = {each for root in roots for each in downstream(nodes, root)}
    first_of_kind = {node.kind: each for each, node in reversed(nodes.items())}
    for each in reversed([each for each in nodes if each in discarded]):
        outputs = nodes[each].outputs
        if each == "bootstrap.1" and "fetch" in names:
            outputs += [folder for source in in_bootstrap for folder in source_folders(source)]
        if first_of_kind[nodes[each].kind] == each:
            outputs += nodes[each].kind.shared_outputs
        run_dir.lease.confirm()
        run_dir.ledger.discard(each, outputs)


def _downloaded_by_bootstrap(run_dir: RunDir) -> list[str]:
    """Web sources whose images the first bootstrap downloads."""
    fetched = run_dir.nodes["fetch"].sources if "fetch" in run_dir.nodes else ()
    return [source for source in run_dir.config.of_kind("web") if source not in fetched]
