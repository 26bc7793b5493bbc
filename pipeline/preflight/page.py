"""Prints what `capfilt check` has found out, for a terminal of 80 columns and more."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import yaml
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.preflight.check import Preflight, SourceCheck, WebRequests
from capfilt.pipeline.preflight.rows import SampleRow, SourceRows
from capfilt.pipeline.preflight.tasks import TaskCheck

INDENT = 14
MIN_WIDTH = 60
LIST_WIDTH = 66
"""Columns of a line in a list of names."""


def print_preflight(console: Console, found: Preflight, *, full: bool) -> None:
    """Print the result of a preflight.

    Args:
        full: print the whole config instead of the keys that differ from the defaults.
    """
    for name, source in found.sources.items():
        _print_lines(console, name, _source_lines(source))
    for name, task in found.tasks.items():
        _print_lines(console, name, _task_lines(task))
    _print_lines(console, "store", [_store_line(found.store)])
    _print_lines(console, "machine", [_device_line(found.devices)])
    for key, address in found.models.items():
        _print_lines(console, key.partition(".")[0], [f"{address}: can be loaded"])
    console.print()
    table = Table("node", "state", "needs", box=None, pad_edge=False, header_style="dim")
    for node, about in found.nodes.items():
        table.add_row(node, about["state"], ", ".join(about["needs"]))
    console.print(table)
    console.print()
    title = "config" if full else "config (what differs from the defaults; --full shows every key)"
    console.print(Text(title, style="dim"))
    shown = found.config if full else found.changed
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=110)
    console.print(Text(text.rstrip("\n")), soft_wrap=True)


def _print_lines(console: Console, label: str, lines: list[str]) -> None:
    """Print `label  first line` and the others below it, each cut to the width of the terminal."""
    room = max(console.width, MIN_WIDTH) - INDENT
    for number, line in enumerate(lines):
        shown = line if cell_len(line) <= room else f"{set_cell_size(line, room - 1).rstrip()}…"
        start = f"{label:<{INDENT - 1}} " if not number else " " * INDENT
        console.print(Text.assemble((start, "bold"), shown), soft_wrap=True)


def _source_lines(source: SourceCheck) -> list[str]:
    if source.found is None:
        return [f"its files are made when the run starts, kind {source.kind}"]
    found = source.found
    lines = [f"{_rows(found)} in {_files(found)}, kind {source.kind}", *_column_lines(found)]
    for sample in found.samples:
        lines += _sample_lines(sample)
    if found.lack is not None:
        lines += textwrap.wrap(f"NO TEXTS: {found.lack}", MIN_WIDTH - INDENT, break_on_hyphens=False)
    return lines + (_web_lines(source.web) if source.web is not None else [])


def _rows(found: SourceRows) -> str:
    if found.rows is None:
        return "an unknown number of images" if found.tars == found.files else "an unknown number of rows"
    if found.estimated:
        return f"about {_round(found.rows):,} rows (estimated)"
    return f"{found.rows:,} rows"


def _round(rows: int) -> int:
    """Two significant digits."""
    return int(round(rows, 2 - len(str(rows))))


def _files(found: SourceRows) -> str:
    kind = "image tar" if found.tars == found.files else "file"
    return f"{found.files:,} {kind}{'' if found.files == 1 else 's'}, {format_bytes(found.bytes)}"


def _column_lines(found: SourceRows) -> list[str]:
    lines = []
    if found.used:
        lines.append("columns " + ", ".join(f"{name} ({role})" for role, name in found.used.items()))
    if found.carried:
        carried = ", ".join(f"{name} {type_}" for name, type_ in found.carried.items())
        lines += wrap(f"carried {carried}", LIST_WIDTH, subsequent_indent=" " * 8)
    if found.unused:
        left = f"left    {', '.join(found.unused)} (rows.keep_columns carries columns along)"
        lines += wrap(left, LIST_WIDTH, subsequent_indent=" " * 8)
    return lines


def _sample_lines(sample: SampleRow) -> list[str]:
    more = f" and {len(sample.texts) - 1} more" if len(sample.texts) > 1 else ""
    text = f"{' '.join(sample.texts[0].split())!r}{more}" if sample.texts else "no text"
    problem = [f"    will fail: {sample.problem}"] if sample.problem is not None else []
    return [f"row {sample.image or '(no url)'}", f"    {text}", *problem]


def _web_lines(web: WebRequests) -> list[str]:
    hosts = ", ".join(f"{host} {count / web.rows:.0%}" for host, count in web.commonest)
    limit = web.per_host_per_second
    rate = "any number of requests/s" if limit is None else f"at most {limit:g} requests/s"
    return [
        f"web     {web.hosts:,} host{'' if web.hosts == 1 else 's'} in {web.rows:,} rows: {hosts}",
        f"        {rate} to a host, {web.per_host} at a time from a worker",
        f"        robots.txt is {'obeyed' if web.robots else 'ignored (fetch.robots)'}",
        f"        contact {web.contact}" if web.contact else "        no contact: set fetch.contact",
    ]


def _task_lines(task: TaskCheck) -> list[str]:
    if not task.splits:
        return [f"its files are made when the run starts, task {task.kind}"]
    lines = []
    for split, found in task.splits.items():
        if split == "train" and not found.samples and not found.bad:
            continue
        what = "pairs of images" if task.kind == "nlvr2" else "images"
        lines.append(f"{split}: {found.samples:,} samples of {found.images:,} {what}, task {task.kind}")
        if found.bad:
            lines.append(f"    {found.bad:,} records cannot be used (first: {found.first_bad})")
        if found.missing is not None:
            lines.append(f"    will fail: the folder has no {found.missing}")
    return lines


def _store_line(store: dict[str, Any]) -> str:
    free = "" if store["free_bytes"] is None else f", {format_bytes(store['free_bytes'])} free"
    return f"{store['url']}: written, read and removed{free}"


def _device_line(devices: dict[str, Any]) -> str:
    gpus = ", ".join(_count(devices["gpus"])) or "no GPU"
    here = f"{devices['cpus']} CPUs, {format_bytes(devices['memory_bytes'])} memory, {gpus}"
    return here if devices["cluster"] is None else f"{here}; the run uses the cluster at {devices['cluster']}"


def _count(names: list[str]) -> Iterator[str]:
    for name in dict.fromkeys(names):
        number = names.count(name)
        yield name if number == 1 else f"{number} × {name}"


def format_bytes(size: int) -> str:
    """A size with its unit: `340 MB`."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
