"""The named set of verdicts that pretrainings read: its identity, the check before a run, and its counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.ledger import LedgerError
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord
from capfilt.stages.storage.layout import DEFAULT_VERDICTS, candidates_folder
from capfilt.stages.storage.run_store import RunStore
from capfilt.stages.storage.store import Store
from capfilt.stages.verdicts.sets import (
    check_current,
    open_set,
    read_set,
    read_verdicts,
)

WITHOUT_VERDICTS = ("human_only", "captioner_only", "web_repeated", "itc_top")
"""Kinds of pretraining that read no verdict, or only as many as the filter has kept in the run."""


def verdicts_of(config: Config, node: Node) -> str:
    """The set of verdicts that a node trains on; the run's own for nodes that read none."""
    reads = node.kind.trains == "pretrain" and node.round > 0 and node.kind.name not in WITHOUT_VERDICTS
    return config.pretrain.texts.verdicts if reads and config.pretrain is not None else DEFAULT_VERDICTS


def verdict_inputs(config: Config, node: Node) -> dict[str, Any]:
    """What determines the verdicts that a node trains on, as JSON-like data: name and policy of the set.

    Empty for the run's own verdicts, which the fingerprint of the bootstrap covers. The candidates are part
    of that fingerprint too. A set that is not there yet has no policy.
    """
    name = verdicts_of(config, node)
    if name == DEFAULT_VERDICTS:
        return {}
    found = read_set(RunStore(config.run.dir, config.run.storage_options), name, node.round)
    policy = None if found is None else msgspec.json.decode(msgspec.json.encode(found.policy))
    return {"verdicts": {"name": name, "policy": policy}}


def check_verdict_sets(run_dir: RunDir, todo: Mapping[str, Node], command: str) -> None:
    """Check that the sets exist on which the nodes that are to run train, and belong to the candidates.

    Args:
        todo: the nodes that are to run.
        command: the command that runs this config.

    Raises:
        LedgerError: the candidates of a set are not there yet.
        VerdictSetError: a set is missing, incomplete or stale.
    """
    for node in todo.values():
        name = verdicts_of(run_dir.config, node)
        if name == DEFAULT_VERDICTS:
            continue
        bootstrap = f"bootstrap.{node.round}"
        if run_dir.ledger.node(bootstrap) is None:
            raise LedgerError(
                f"pretrain.texts.verdicts: {name}: {node.name} trains on this set, but round {node.round} is "
                f"not bootstrapped yet; first {command} --until {bootstrap}, then capfilt rejudge "
                f'{run_dir.store.url} --name {name} --round {node.round} --keep "itm >= 0.7"'
            )
        found = open_set(run_dir.store, name, node.round)
        folders = [candidates_folder(node.round, source) for source in run_dir.config.of_kind("web")]
        records = (record for folder in folders for record in run_dir.ledger.records(folder))
        check_current(run_dir.store, found, [each for each in records if isinstance(each, CandidatesRecord)])


def with_verdicts(store: Store, name: str, record: CommitRecord) -> CommitRecord:
    """The record of a shard of candidates with the counts of a named set, and with its file.

    Raises:
        VerdictSetError: the set has no such shard, or made it from other candidates.
    """
    if not isinstance(record, CandidatesRecord):
        return record
    verdicts = read_verdicts(store, name, record)
    return replace(record, candidates=verdicts.verdicts, files=(*record.files, verdicts.file))
