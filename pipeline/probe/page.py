"""The plan of a run, and a run beside its plan, printed."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.console.summary import print_fields
from capfilt.pipeline.console.throughput import format_duration
from capfilt.pipeline.estimate.compare import Comparison, Line
from capfilt.pipeline.estimate.record import Interval, Plan, PlannedNode
from capfilt.pipeline.preflight.page import format_bytes

SECONDS_PER_HOUR = 3600.0
BYTES = {
    "received": "downloaded",
    "images": "stored images",
    "rows": "corpus tables",
    "candidates": "candidates",
}
"""Kinds of bytes, in words."""
BUSY = 0.3
"""Load of other processes, per core, above which the page warns."""
ONCE = "measured once"
"""In place of an interval that is not known."""


def print_plan(console: Console, plan: Plan, run_dir: str, command: str) -> None:
    """Print what a run is expected to take.

    Args:
        command: that makes the run.
    """
    console.print(_sources(plan))
    console.print()
    console.print(_nodes(plan))
    console.print()
    fields = [(name, text) for name, text in _bytes_of(plan).items()]
    unknown = [each.node for each in plan.nodes if each.seconds is None]
    fields += [
        ("time", f"{_interval(plan.seconds, format_duration)} on {_cluster(plan)}"),
        ("bottleneck", _bottleneck(plan)),
    ]
    if plan.money is not None:
        fields.append(("price", f"{_interval(plan.money, _money)} for the whole cluster"))
    if not plan.network:
        fields.append(("not included", "downloads from the web (--no-network)"))
    if unknown:
        fields.append(("not known", ", ".join(unknown)))
    if plan.load is not None and plan.load > BUSY:
        fields.append(
            (
                "busy",
                f"other processes wanted {plan.load:.1f} times the cores of this machine before the small "
                "run; the times hold for a run beside as many, so plan again when it is idle",
            )
        )
    fields += [
        ("measured", f"by a small run of {format_duration(plan.probe_seconds)}: {_small_run(plan)}"),
        ("plan", f"{run_dir.rstrip('/')}/plan.json"),
        ("run", command),
        ("compare", f"capfilt plan {run_dir.rstrip('/')}  (after the run)"),
    ]
    print_fields(console, fields)


def print_comparison(console: Console, found: Comparison, plan: Plan | None, run_dir: str) -> None:
    """Print what a run has taken, beside its plan if there is one."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("node")
    for title in ("planned", "95 % interval", "took", "plan is off by"):
        table.add_column(title, justify="right")
    for line in found.lines:
        table.add_row(*_compared(line))
        for stage in line.stages:
            table.add_row(*_compared(stage, indent="  "), style="dim")
    table.add_row(*_compared(found.total), style="bold")
    console.print(table)
    console.print(Text("stages: seconds of work, summed over their processes", style="dim"))
    console.print()
    fields = []
    for kind, name in BYTES.items():
        planned, counted = found.bytes.get(kind, (None, None))
        if planned is not None or counted is not None:
            shown = "–" if counted is None else format_bytes(counted)
            beside = "" if planned is None else f", planned {_interval(planned, _bytes)}"
            fields.append((name, f"{shown}{beside}"))
    if found.money is not None and plan is not None and plan.money is not None:
        fields.append(("price", f"{_money(found.money)}, planned {_interval(plan.money, _money)}"))
    if plan is None:
        fields.append(("plan", f"none: capfilt plan CONFIG makes one before a run; {run_dir} had none"))
    print_fields(console, fields)


def _sources(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("source")
    for title in ("rows", "shards", "tried", "stored"):
        table.add_column(title, justify="right")
    for name, source in plan.sources.items():
        about = "about " if source.is_estimated else ""
        table.add_row(
            name,
            f"{about}{source.rows:,.0f}",
            f"{source.shards:,.0f}",
            f"{source.probed_rows:,}",
            f"{source.stored:.1%}",
        )
    return table


def _nodes(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("node")
    on_gpus = plan.gpus > 0
    for title in ("amount", "time", "95 % interval", "GPU-hours" if on_gpus else "CPU-hours"):
        table.add_column(title, justify="right")
    for each in plan.nodes:
        table.add_row(each.node, _amount(each), *_times(each.seconds), _hours(each, on_gpus))
        for stage, seconds in each.stages.items():
            table.add_row(f"  {stage}", "", *_times(seconds), "", style="dim")
    table.add_row("run", "", *_times(plan.seconds), _all_hours(plan), style="bold")
    return table


def _amount(node: PlannedNode) -> str:
    return "" if node.units is None else f"{node.units:,.0f} {node.unit}"


def _times(seconds: Interval | None) -> tuple[str, str]:
    if seconds is None:
        return "–", ""
    return format_duration(seconds.value), _limits(seconds, format_duration) or ONCE


def _hours(node: PlannedNode, on_gpus: bool) -> str:
    held = node.gpus if on_gpus else node.cpus
    return "–" if node.seconds is None else f"{node.seconds.value * held / SECONDS_PER_HOUR:,.3g}"


def _all_hours(plan: Plan) -> str:
    """Hours of the whole cluster, which is what a run costs."""
    return f"{plan.seconds.value * (plan.gpus or plan.cpus) / SECONDS_PER_HOUR:,.3g}"


def _compared(line: Line, indent: str = "") -> tuple[str, str, str, str, str]:
    planned, limits = _times(line.planned)
    took = "–" if line.took is None else format_duration(line.took)
    off = "" if line.off is None else f"{line.off:+.0%}"
    return f"{indent}{line.name}", planned, limits, took, off


def _bytes_of(plan: Plan) -> dict[str, str]:
    found: dict[str, str] = {}
    for kind, name in BYTES.items():
        sizes = [each.bytes[kind] for each in plan.nodes if kind in each.bytes]
        if sizes and (kind != "received" or plan.network):
            limits = (sum(getattr(size, part) for size in sizes) for part in ("value", "low", "high"))
            found[name] = _interval(Interval(*limits), _bytes)
    return found


def _bottleneck(plan: Plan) -> str:
    """The node with the largest share of the time, and its slowest stage."""
    seconds = {each.node: each for each in plan.nodes if each.node in plan.path and each.seconds is not None}
    if not seconds or not plan.seconds.value:
        return "–"
    most = max(seconds.values(), key=lambda each: each.seconds.value if each.seconds else 0.0)
    share = most.seconds.value / plan.seconds.value if most.seconds else 0.0
    stage = f", its stage {most.bottleneck}" if most.bottleneck else ""
    return f"{most.node} with {share:.0%} of the time{stage}"


def _cluster(plan: Plan) -> str:
    gpus = f"{plan.gpus:g} GPU{'' if plan.gpus == 1 else 's'} and " if plan.gpus else ""
    return f"{gpus}{plan.cpus:g} CPU{'' if plan.cpus == 1 else 's'}"


def _small_run(plan: Plan) -> str:
    return f"up to {plan.rows:,} rows of each source, {plan.steps:,} steps of each training"


def _interval(found: Interval, show: Callable[[float], str]) -> str:
    return f"{show(found.value)} ({_limits(found, show)})" if found.low < found.high else show(found.value)


def _limits(found: Interval, show: Callable[[float], str]) -> str:
    """The interval in words; empty where it is not known, as after a single measurement."""
    if found.low >= found.high:
        return ""
    low, high = show(found.low), show(found.high)
    return f"{low} to {high}" if low != high else ""


def _bytes(size: float) -> str:
    return format_bytes(round(size))


def _money(price: float) -> str:
    return f"{price:,.2f}"
