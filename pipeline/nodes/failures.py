"""NEW FILE."""

from __future__ import annotations

import traceback
from collections import Counter

from capfilt.pipeline.errors import USER_ERRORS, NodeFailed, origin, root_cause
from capfilt.pipeline.nodes.context import RunContext
from capfilt.stages.storage.store import StoreError


def describe_failure(run: RunContext, name: str, error: BaseException) -> str:
    """One line about what ended a node. The trace of what nobody foresaw is kept, unless the store is what failed."""
    cause = origin(error)
    if isinstance(cause, USER_ERRORS):
        return str(cause)
    log = failure_log(name)
    try:
        run.store.put(log, "".join(traceback.format_exception(error)).encode())
    except (StoreError, OSError) as away:
        return f"{name}: {root_cause(error)}; the trace could not be kept ({away})"
    return f"{name}: {root_cause(error)}; the whole trace is in {run.store.address(log)}"


def failure_log(node: str) -> str:
    """Where the trace of a node's error is kept until the node is done."""
    return f"nodes/{node}.failure.log"


def failure_causes(run: RunContext, name: str) -> str:
    """Why shards failed, the commonest cause first."""
    found = Counter(run.board.failures(name)).most_common(2)
    if not found:
        return (
            "their processes died without a word: killed from outside, out of memory, or ended after "
            f"{run.config.cluster.stall_seconds:g} s without progress (cluster.stall_seconds); see Ray's logs"
        )
    return "; ".join(cause for cause, _ in found)


def check_failed_fraction(run: RunContext, source: str, status: dict[str, int]) -> None:
    rows = sum(status.values())
    failed = rows - status.get("success", 0)
    limit = run.config.run.max_failed_fraction
    if not rows or (failed / rows <= limit and failed < rows):
        return
    worst = ", ".join(f"{n} {s}" for s, n in Counter(status).most_common(4) if s != "success")
    look = f"look at corpus/{source}/*.parquet (status, error_message), mend the cause and run with --fresh fetch"
    if failed == rows:
        raise NodeFailed(f"source {source}: all {rows} rows failed ({worst}); {look}")
    raise NodeFailed(
        f"source {source}: {failed} of {rows} rows failed ({worst}), more than run.max_failed_fraction = "
        f"{limit:g} allows; {look}, or raise the limit"
    )
