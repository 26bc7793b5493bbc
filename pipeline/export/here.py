"""Runs the shards of an export in this process: for forms without images, which take seconds."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from capfilt.pipeline.console.activity import Tell
from capfilt.pipeline.export.plan import ExportPlan
from capfilt.pipeline.export.shards import missing_parts
from capfilt.stages.export.shard import ExportShard

TOLD_EVERY = 100
"""Shards between two lines about the progress."""


def export_here(plan: ExportPlan, tell: Tell) -> None:
    """Write every shard that is not committed, in threads: Arrow and stores work outside of Python's lock."""
    missing = missing_parts(plan)
    stage = ExportShard(plan.config)
    done = plan.total - len(missing)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        futures = [pool.submit(stage.export, **part) for part in missing]
        try:
            for number, future in enumerate(futures, start=done + 1):
                future.result()
                if number % TOLD_EVERY == 0:
                    tell(f"writing shards ({number:,} of {plan.total:,})")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
