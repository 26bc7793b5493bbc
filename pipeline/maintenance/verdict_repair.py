"""Repairs named sets of verdicts: removes what is damaged and judges it again, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from capfilt.pipeline.maintenance.rejudge import rejudge_round, remove_set
from capfilt.pipeline.maintenance.verdict_checks import SetFault
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.storage.layout import verdict_set_record, verdicts_shard
from capfilt.stages.verdicts.rules import PolicyText
from capfilt.stages.verdicts.sets import list_sets, read_set


def repair_sets(run_dir: RunDir, faults: Sequence[SetFault]) -> None:
    """Remove what is damaged in sets of verdicts; what is left counts as unfinished.

    A set whose description is damaged is removed, because its policy is unknown. Others are judged again by
    `finish_sets`, once all candidates are there.
    """
    for name, round_ in dict.fromkeys((fault.name, fault.round) for fault in faults):
        own = [fault for fault in faults if (fault.name, fault.round) == (name, round_)]
        if any(fault.is_lost for fault in own):
            remove_set(run_dir, name, round_)
            continue
        found = read_set(run_dir.store, name, round_)
        assert found is not None, "a set with a fault is there"
        run_dir.lease.check()
        # Before the shards: killed after it, the set counts as unfinished and is judged again.
        run_dir.store.put_json(
            verdict_set_record(name, round_), msgspec.to_builtins(replace(found, is_done=False))
        )
        for fault in own:
            if fault.shard is not None:
                run_dir.store.remove_file(verdicts_shard(name, round_, *fault.shard).record)


def finish_sets(run_dir: RunDir) -> list[str]:
    """Judge the rest of every set that is not complete and whose round is bootstrapped.

    Returns:
        Names of the sets, with their rounds.
    """
    finished = []
    for name, round_ in list_sets(run_dir.store):
        found = read_set(run_dir.store, name, round_)
        is_there = run_dir.ledger.node(f"bootstrap.{round_}") is not None
        if found is not None and not found.is_done and is_there:
            rejudge_round(run_dir, name, PolicyText(), round_)
            finished.append(f"verdict set {name} of round {round_}")
    return finished
