"""Progress of the running nodes: a live table on a terminal, timestamped lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.console.throughput import format_duration

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
STATUS_COLORS = {"done": "green", "failed": "red", "stopped": "yellow"}
NAME_WIDTH = 13
Note = str | Callable[[Mapping[str, Any]], str]
"""What a node is doing: a text, or a function of what its workers have posted that gives the text of now."""
POLL_SECONDS = 0.5
"""Pause between two calls of `Progress.draw`."""
LINE_EVERY_SECONDS = 15.0
"""Pause between two lines of a running node where the output is no terminal."""


@dataclass
class NodeProgress:
    """How far a running node is."""

    node: str
    started: float
    printed: float
    """When its last line was printed."""
    unit: str = "rows"
    done: int = 0
    total: int | None = None
    note: Note = ""
    note_since: float = 0.0
    """When a note that is a text was set."""


class Progress:
    """Shows the running nodes. Thread-safe: node threads update it, the main thread draws.

    Args:
        console: where to print.
        poll: returns the latest values of each node from the workers (`cluster.board.StatusBoard.read`).
    """

    def __init__(self, console: Console, poll: Callable[[], dict[str, dict[str, Any]]] | None = None) -> None:
        self.console, self.poll = console, poll
        self._nodes: dict[str, NodeProgress] = {}
        self._board: dict[str, dict[str, Any]] = {}
        self._printed_notices: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def begin(self, node: str, *, unit: str = "rows", total: int | None = None, resumed: str = "") -> None:
        """Add a node; `resumed` is printed in its first line."""
        now = time.monotonic()
        with self._lock:
            self._nodes[node] = NodeProgress(
                node, now, now, unit=unit, total=total, note=resumed or "starting", note_since=now
            )
        self._print(node, f"started, {resumed}" if resumed else "started", style="bold")

    def advance(self, node: str, done: int) -> None:
        """Set how much of a node is done."""
        with self._lock:
            self._nodes[node].done = done

    def describe(self, node: str, note: Note) -> None:
        """Set what a node is doing; nothing happens if it does not run."""
        with self._lock:
            if (entry := self._nodes.get(node)) is not None:
                entry.note, entry.note_since = note, time.monotonic()

    def set_total(self, node: str, total: int, *, unit: str | None = None) -> None:
        """Set how much there is to do, and in which unit."""
        with self._lock:
            entry = self._nodes[node]
            entry.total, entry.unit = total, unit or entry.unit

    def end(self, node: str, summary: str, status: Literal["done", "failed", "stopped"] = "done") -> None:
        """Remove a node and print how it ended."""
        with self._lock:
            entry = self._nodes.pop(node, None)
        seconds = time.monotonic() - entry.started if entry is not None else 0.0
        outcome = Text.assemble((status, f"bold {STATUS_COLORS[status]}"), f" in {seconds:.0f} s  {summary}")
        self._print(node, outcome, style="bold")

    def say(self, node: str, line: str) -> None:
        """Print a line about a node that stays on the screen."""
        self._print(node, line)

    def skip(self, node: str) -> None:
        """Print that a node was done by an earlier command."""
        self._print(node, Text("done before", style="dim"), style="bold")

    @property
    def board(self) -> dict[str, dict[str, Any]]:
        """What the workers of each node had posted when the state was drawn last."""
        return self._board

    def amounts(self) -> dict[str, tuple[str, int, int]]:
        """{node: (unit, done, total)} of the running nodes whose total is known."""
        with self._lock:
            nodes = self._nodes.items()
            return {
                name: (each.unit, each.done, each.total) for name, each in nodes if each.total is not None
            }

    def draw(self) -> None:
        """Show the present state; the main thread calls it every `POLL_SECONDS`."""
        if self.poll is not None:
            self._board = self.poll()
            self._update_trainings(self._board)
            self._print_notices(self._board)
        now = time.monotonic()
        with self._lock:
            shown = [(entry, self._text_of(entry, now)) for entry in self._nodes.values()]
        if self._live is not None:
            self._live.update(_table(shown), refresh=True)
            return
        for entry, note in shown:
            if now - entry.printed >= LINE_EVERY_SECONDS:
                entry.printed = now
                self._print(entry.node, "  ".join(part for part in (_amount(entry), note) if part))

    def _text_of(self, entry: NodeProgress, now: float) -> str:
        """What the node is doing; of a text that stands still, also for how long."""
        if callable(entry.note):
            return entry.note(self._board.get(entry.node, {}))
        if not entry.note or "step" in self._board.get(entry.node, {}):
            return entry.note
        return f"{entry.note} ({format_duration(now - entry.note_since)})"

    def _print(self, node: str, message: str | Text, style: str = "") -> None:
        timestamp = "" if self.console.is_terminal else f"{time.strftime(TIME_FORMAT)}  "
        line = Text.assemble(timestamp, (f"{node:<{NAME_WIDTH}}", style), " ", message)
        self.console.print(line, soft_wrap=not self.console.is_terminal)

    def _update_trainings(self, board: dict[str, dict[str, Any]]) -> None:
        """Take over the numbers that training workers posted."""
        with self._lock:
            for name, values in board.items():
                entry = self._nodes.get(name)
                if entry is not None and "step" in values:
                    entry.done, entry.total, entry.unit = values["step"], values["total"], "steps"
                    entry.note = training_note(values)

    def _print_notices(self, board: dict[str, dict[str, Any]]) -> None:
        """Print the workers' messages for the user, each once; the board returns all of them at every
        poll."""
        for node, values in board.items():
            for line in values.get("notices", ()):
                if (node, line) not in self._printed_notices:
                    self._printed_notices.add((node, line))
                    self.say(node, line)


def training_note(values: dict[str, Any]) -> str:
    """Losses, speed and remaining time of a training, in one line."""
    losses = "  ".join(f"{k} {values[k]:.3f}" for k in ("loss", "itc", "itm", "lm") if k in values)
    speed = values.get("steps_per_second", 0.0)
    left = (values["total"] - values["step"]) / speed if speed else 0.0
    samples = f"{values['samples_per_second']:,.0f} samples/s  " if "samples_per_second" in values else ""
    mfu = f"MFU {values['mfu']:.1%}  " if "mfu" in values else ""
    return f"{losses}  {speed:.1f} steps/s  {samples}{mfu}{format_duration(left)} left"


def _amount(entry: NodeProgress) -> str:
    """How much is done; empty before the first if nothing is known about how much there is."""
    if not entry.total and not entry.done:
        return ""
    total = f"/{entry.total:,}" if entry.total else ""
    return f"{entry.done:,}{total} {entry.unit}"


def _table(shown: Sequence[tuple[NodeProgress, str]]) -> Group:
    """A bar for each node, and below it what the node is doing."""
    lines: list[RenderableType] = []
    for entry, note in shown:
        bars = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=entry.total or 1, completed=entry.done, width=24, pulse=not entry.total)
        bars.add_row(Text(f"{entry.node:<{NAME_WIDTH}}", style="bold"), bar, Text(_amount(entry)))
        lines.append(bars)
        if note:
            lines.append(Padding(Text(note), (0, 0, 0, NAME_WIDTH + 2)))
    return Group(*lines)
