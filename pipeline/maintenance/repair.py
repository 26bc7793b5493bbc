"""Removes the records of what is damaged, so that the run makes exactly that again."""

from __future__ import annotations

from dataclasses import dataclass, field

from capfilt.pipeline.maintenance.verdict_repair import repair_sets
from capfilt.pipeline.maintenance.verify import Problem, Verification, verify_run
from capfilt.pipeline.plan import downstream
from capfilt.pipeline.rundir.cutting import check_can_be_cut
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.storage.layout import (
    INDEX_RECORD,
    NODES,
    RECORD_SUFFIX,
    STAGING,
    candidates_shard,
    corpus_shard,
    index_folder,
    records_folder,
)


@dataclass
class _Removals:
    """Records of shards that a repair removes. The dicts are ordered sets."""

    candidates: dict[str, None] = field(default_factory=dict)
    corpora: dict[str, None] = field(default_factory=dict)
    corpus_sources: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    """Nodes that have work again."""


def repair_run(run_dir: RunDir, *, records_only: bool = False) -> tuple[Verification, list[str]]:
    """Verify a run and remove the records of what is damaged.

    Args:
        records_only: see `verify_run`.

    Returns:
        What was found, and the names of the nodes that have work again.

    Raises:
        ManifestError: an index is damaged, and its manifest has changed. Nothing is removed.
    """
    found = verify_run(run_dir, records_only=records_only)
    removed = {problem.place for problem in found.problems if problem.remove}
    for source in run_dir.config.sources:
        if f"{index_folder(source)}/{INDEX_RECORD}" in removed:
            check_can_be_cut(run_dir, source)
    reopened = repair(run_dir, found.problems)
    hiding = (f"{NODES}/", f"{STAGING}/")
    if any(problem.place.startswith(hiding) and problem.remove for problem in found.problems):
        # The first verification could check nothing else.
        rest, reopened_too = repair_run(run_dir, records_only=records_only)
        rest.problems = found.problems + rest.problems
        return rest, [name for name in run_dir.nodes if name in reopened or name in reopened_too]
    return found, reopened


def repair(run_dir: RunDir, problems: list[Problem]) -> list[str]:
    """Remove the records of everything that is damaged.

    Records of shards are removed one by one, and with that of a corpus shard those of its candidates, because
    the next download may give other images. Nodes whose output is stale then, such as reports, are discarded.

    The records of damaged shards, by which the damage is found, are removed last. So if the process dies at
    any point, either the next call finds the damage again, or nothing is left to remove.

    Returns:
        Names of the nodes that have work again.
    """
    ledger, nodes = run_dir.ledger, run_dir.nodes
    repair_sets(run_dir, [problem.verdicts for problem in problems if problem.verdicts is not None])
    problems = [problem for problem in problems if problem.verdicts is None]
    others = [problem for problem in problems if problem.shard is None]
    removals = _removals(run_dir, [problem for problem in problems if problem.shard is not None])
    reopened = removals.nodes | {problem.node for problem in others}
    for problem in others:
        if problem.remove:
            run_dir.lease.confirm()
            run_dir.store.remove_file(problem.place)
    for name in _stale_nodes(run_dir, reopened, removals.corpus_sources):
        if ledger.node(name) is not None:
            run_dir.lease.confirm()
            ledger.discard(name, nodes[name].outputs)
            reopened.add(name)
    for name in dict.fromkeys(problem.node for problem in others if not problem.remove):
        if not nodes[name].kind.streams_shards:
            run_dir.lease.confirm()
            ledger.discard(name, nodes[name].outputs)
    for name in reopened:
        if nodes[name].kind.streams_shards:
            ledger.reopen(name)  # the run counts its totals again
    for record in [*removals.candidates, *removals.corpora]:
        run_dir.lease.confirm()
        run_dir.store.remove_file(record)
    return [name for name in nodes if name in reopened]


def _removals(run_dir: RunDir, damaged: list[Problem]) -> _Removals:
    """The records of damaged shards, and those of candidates that were made from damaged corpus shards."""
    removals = _Removals()
    for problem in damaged:
        source, shard = problem.place.split("/")[-2], problem.shard
        assert shard is not None, "only problems of shards are passed"
        removals.nodes.add(problem.node)
        if problem.place != corpus_shard(source, shard).stem:
            removals.candidates[_record_of(problem.place)] = None
            continue
        removals.corpora[_record_of(problem.place)] = None
        removals.corpus_sources.add(source)
        for node in run_dir.nodes.values():
            if node.kind.judges and source in node.sources:
                removals.candidates[candidates_shard(node.round, source, shard).record] = None
                removals.nodes.add(node.name)
    return removals


def _record_of(stem: str) -> str:
    """The commit record of the shard `stem`."""
    folder, _, name = stem.rpartition("/")
    return f"{records_folder(folder)}/{name}{RECORD_SUFFIX}"


def _stale_nodes(run_dir: RunDir, reopened: set[str], corpus_sources: set[str]) -> list[str]:
    """Nodes after the reopened ones whose output is stale once the corpus shards of these sources change."""
    later = {each for name in reopened for each in downstream(run_dir.nodes, name)}
    kinds = {run_dir.source_kind(source) for source in corpus_sources}
    return [name for name, node in run_dir.nodes.items() if name in later and node.kind.is_stale_after(kinds)]
