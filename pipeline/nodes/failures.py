"""The end of a pass, and messages for the user when a node, its shards or too many of its rows fail."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass

from capfilt.cluster.chain.losses import PassEnded
from capfilt.models.disk_errors import ADVICE, disk_error_number
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.errors import NodeFailed, first_error, is_user_error, quoted_user_error, root_cause
from capfilt.pipeline.nodes.context import RunContext
from capfilt.stages.storage.layout import corpus_folder, failure_log
from capfilt.stages.storage.store import StoreError


def describe_failure(context: RunContext, name: str, error: BaseException) -> str:
    """One line about the error that ended a node.

    The trace of an error that is not a user error is written to the run directory, unless the store cannot be
    written.
    """
    cause = first_error(error)
    if is_user_error(cause):
        return str(cause)
    if (quoted := quoted_user_error(error)) is not None:
        return quoted[1]
    advice = ADVICE.get(disk_error_number(cause) or 0)
    cause_line = root_cause(error) if advice is None else f"{root_cause(error)}; {advice}"
    log = failure_log(name)
    try:
        context.store.put(log, "".join(traceback.format_exception(error)).encode())
    except (StoreError, OSError) as unwritable:
        return f"{name}: {cause_line}; the trace could not be written ({unwritable})"
    return f"{name}: {cause_line}; the whole trace is in {context.store.address(log)}"


def failure_causes(context: RunContext, name: str) -> str:
    """The two most common causes for which shards of a node failed, as one line."""
    found = Counter(context.board.failures(name)).most_common(2)
    if not found:
        limit = f"{context.config.cluster.stall_seconds:g} s without progress (cluster.stall_seconds)"
        return (
            "worker processes exited without an error message: killed from outside, out of memory, or "
            f"stopped after {limit}; see Ray's logs"
        )
    return "; ".join(cause for cause, _ in found)


def check_failed_fraction(config: Config, source: str, status: dict[str, int]) -> None:
    """Check that no larger share of a source's rows has failed than the config allows.

    Args:
        status: rows of the source by status.

    Raises:
        NodeFailed: more than `run.max_failed_fraction` of the rows have failed, or all of them, whatever the
            limit.
    """
    rows = sum(status.values())
    failed = rows - status.get("success", 0)
    limit = config.run.max_failed_fraction
    if not rows or (failed / rows <= limit and failed < rows):
        return
    worst = ", ".join(f"{n} {s}" for s, n in Counter(status).most_common(4) if s != "success")
    files = f"{corpus_folder(source)}/*.parquet (status, error_message)"
    advice = f"look at {files}, fix the cause and run with --fresh fetch"
    if failed == rows:
        raise NodeFailed(f"source {source}: all {rows} rows failed ({worst}); {advice}")
    raise NodeFailed(
        f"source {source}: {failed} of {rows} rows failed ({worst}), more than run.max_failed_fraction = "
        f"{limit:g} allows; {advice}, or raise the limit"
    )


@dataclass(frozen=True)
class EndOfPass:
    """Why a pass over the missing shards has ended."""

    error: Exception | None = None
    """The error of the engine, None if it has not failed."""
    resized: str | None = None
    """How the cluster has changed, if the pass ended for that."""

    @property
    def may_be_repeated(self) -> bool:
        """Whether another pass may complete shards although this one has completed none."""
        return self.resized is not None or isinstance(self.error, PassEnded)

    @property
    def settle_seconds(self) -> float:
        """Time before the next pass is sized."""
        return self.error.settle_seconds if isinstance(self.error, PassEnded) else 0.0

    @property
    def kind(self) -> str:
        """Label of the metric that counts repeated passes."""
        if self.error is None:
            return "failed" if self.resized is None else "resized"
        return self.error.kind if isinstance(self.error, PassEnded) else "error"

    @property
    def cause(self) -> str:
        """One line."""
        if self.error is not None:
            return str(self.error) if isinstance(self.error, PassEnded) else root_cause(self.error)
        return self.resized or "shards failed"
