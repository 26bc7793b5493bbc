"""The status of a run as lines for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.console.summary import field_line
from capfilt.pipeline.console.throughput import format_duration
from capfilt.pipeline.inspection.status import LeaseStatus, NodeStatus, RunStatus, failed_rows

COLORS = {"done": "green", "running": "bold", "failed": "red", "interrupted": "yellow", "stale": "yellow"}


def status_block(status: RunStatus, resume: str) -> RenderableType:
    """A line for each node, the owner of the directory, and what to do next.

    Args:
        resume: the command that continues the run.
    """
    table = Table.grid(padding=(0, 2))
    for node in status.nodes:
        table.add_row(
            Text(node.node, style="bold"),
            Text(node.state, style=COLORS.get(node.state, "dim")),
            Text(_progress(node)),
        )
    lines: list[RenderableType] = [field_line("run", status.run), table]
    for node in status.nodes:
        if failed := failed_rows(node.status):
            of = f" (newest {node.sampled_shards} shards)" if node.sampled_shards else ""
            shown = ", ".join(f"{count:,} {name}" for name, count in failed[:6])
            lines.append(field_line("failed rows", f"{node.node}{of}: {shown}"))
        if node.error is not None:
            lines.append(field_line("last error", f"{node.node}: {node.error}"))
    lines.append(field_line("lease", _describe_lease(status.lease)))
    if status.job is not None:
        at = "" if status.job.address is None else f" at {status.job.address}"
        lines.append(field_line("job", f"{status.job.job}{at}, since {status.job.since}"))
    if status.stopping:
        lines.append(field_line("", "stopping: shards in flight are being finished"))
    if not status.is_at_work:
        is_done = all(node.state == "done" for node in status.nodes)
        if status.job is not None and status.job.command:
            resume = status.job.command
        lines.append(field_line("done" if is_done else "resume", "every node" if is_done else resume))
    return Group(*lines)


def _progress(node: NodeStatus) -> str:
    parts = []
    if node.seconds is not None:
        parts.append(f"in {format_duration(node.seconds)}")
    if node.done is not None:
        total = "" if node.total is None else f"/{node.total:,}"
        parts.append(f"{node.done:,}{total} {node.unit}")
    if node.per_minute is not None:
        parts.append(f"{node.per_minute:,.1f} {node.unit}/min")
    if node.left_seconds is not None:
        parts.append(f"{format_duration(node.left_seconds)} left")
    return "  ".join(parts)


def _describe_lease(lease: LeaseStatus | None) -> str:
    if lease is None:
        return "nobody works in this directory"
    owner = f"process {lease.pid} on {lease.host}, since {lease.since}"
    beat = f"last heartbeat {format_duration(lease.heartbeat_seconds)} ago"
    return f"{owner}, {beat}" if lease.alive else f"{owner}: dead, {beat}"
