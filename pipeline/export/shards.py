"""Which shards of an export are not written yet."""

from __future__ import annotations

from typing import Any

from capfilt.pipeline.export.plan import ExportPlan
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.storage.layout import EXPORT_DATA


def missing_parts(plan: ExportPlan) -> list[dict[str, Any]]:
    """{"source", "shard"} of the shards without a commit record."""
    committed = set(Ledger(plan.config.out).committed_shards(EXPORT_DATA))
    firsts = plan.config.first_numbers
    return [part for part in plan.parts() if firsts[part["source"]] + part["shard"] not in committed]
