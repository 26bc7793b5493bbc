"""From a request to a finished export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from capfilt.pipeline.console.activity import Tell
from capfilt.pipeline.export.finish import finish_export, remove_leftovers
from capfilt.pipeline.export.here import export_here
from capfilt.pipeline.export.plan import ExportPlan, ExportRequest, plan_export
from capfilt.pipeline.export.shards import missing_parts
from capfilt.pipeline.export.target import (
    ExportSummary,
    State,
    check_target,
    describe,
    read_summary,
    save_summary,
)
from capfilt.pipeline.rundir.probe import check_writable
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.export.config import WITH_IMAGES

WriteShards = Callable[[ExportPlan], None]
"""Writes every shard of an export that is not committed."""


@dataclass(frozen=True)
class Export:
    """A finished export."""

    plan: ExportPlan
    summary: ExportSummary
    before: State
    """How far it was when the command began."""


def run_export(run_dir: RunDir, request: ExportRequest, on_ray: WriteShards, tell: Tell) -> Export:
    """Write an export, or what is left of it.

    Args:
        on_ray: writes shards with images.
        tell: receives what is done at the moment.

    Raises:
        ExportError, ColumnsError, UidError, StoreError: one line for the user; nothing is written.
        NodeFailed: some shards fail in every attempt; the others are written.
    """
    tell("checking what is to be exported")
    plan = plan_export(run_dir, request)
    out, state = plan.config.out, check_target(plan)
    if state == "new":
        check_writable(out, "OUT")
        save_summary(out, describe(plan, run_dir.config.run.name))
    summary = read_summary(out)
    assert summary is not None, "the record of the export has just been written"
    if state != "done":
        tell(f"writing {plan.total:,} shards")
        if missing_parts(plan):  # else an earlier command was stopped at its end
            _write_shards(plan, on_ray, tell)
        tell("completing the export")
        summary = finish_export(run_dir, plan, summary)
    remove_leftovers(plan)
    return Export(plan, summary, state)


def _write_shards(plan: ExportPlan, on_ray: WriteShards, tell: Tell) -> None:
    if plan.config.form in WITH_IMAGES:
        on_ray(plan)
    else:
        export_here(plan, tell)
