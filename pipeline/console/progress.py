"""What the run is doing, on a terminal as a live table, elsewhere as a line now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

COLOURS = {"done": "green", "failed": "red", "stopped": "yellow"}
LINE_EVERY_SECONDS = 15.0
"""Pause between two lines of a node where the output is no terminal."""


@dataclass
class NodeProgress:
    """How far one running node is."""

    node: str
    unit: str = "rows"
    done: int = 0
    total: int | None = None
    note: str = ""
    started: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)


class Progress:
    """Thread-safe: nodes tell, the main thread draws."""

    def __init__(self, console: Console, poll: Callable[[], dict[str, dict[str, Any]]] | None = None) -> None:
        self.console, self.poll = console, poll
        self._nodes: dict[str, NodeProgress] = {}
        self._noticed: set[tuple[str, str]] = set()
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
        with self._lock:
            self._nodes[node] = NodeProgress(node, unit=unit, total=total, note=resumed)
        self.console.print(f"[bold]{node:<13}[/] started{f', {resumed}' if resumed else ''}", highlight=False)

    def advance(self, node: str, done: int, note: str = "") -> None:
        """Set how much of a node is done."""
        with self._lock:
            self._nodes[node].done, self._nodes[node].note = done, note

    def set_total(self, node: str, total: int, *, unit: str | None = None) -> None:
        with self._lock:
            entry = self._nodes[node]
            entry.total, entry.unit = total, unit or entry.unit

    def end(self, node: str, summary: str, how: Literal["done", "failed", "stopped"] = "done") -> None:
        with self._lock:
            entry = self._nodes.pop(node, None)
        seconds = time.monotonic() - entry.started if entry is not None else 0.0
        word = f"[bold {COLOURS[how]}]{how}[/]"
        self.console.print(f"[bold]{node:<13}[/] {word} in {seconds:.0f} s  {summary}", highlight=False)

    def say(self, node: str, line: str) -> None:
        """A line that stays."""
        self.console.print(f"{node:<13} {line}", highlight=False, markup=False)

    def skip(self, node: str) -> None:
        self.console.print(f"[bold]{node:<13}[/] [dim]done before[/]", highlight=False)

    def draw(self) -> None:
        """Show the present state; called about twice a second by the main thread."""
        if self.poll is not None:
            board = self.poll()
            self._take(board)
            self._say_notices(board)
        with self._lock:
            nodes = list(self._nodes.values())
        if self._live is not None:
            self._live.update(_table(nodes), refresh=True)
            return
        now = time.monotonic()
        for entry in nodes:
            if now - entry.printed >= LINE_EVERY_SECONDS:
                entry.printed = now
                self.console.print(f"{entry.node:<13} {_amount(entry)}  {entry.note}", highlight=False)

    def _take(self, board: dict[str, dict[str, Any]]) -> None:
        """Numbers that training workers posted."""
        with self._lock:
            for name, values in board.items():
                entry = self._nodes.get(name)
                if entry is not None and "step" in values:
                    entry.done, entry.total, entry.unit = values["step"], values["total"], "steps"
                    entry.note = training_note(values)

    def _say_notices(self, board: dict[str, dict[str, Any]]) -> None:
        """What workers want the user to know; the board repeats it at every look."""
        for node, values in board.items():
            for line in values.get("notices", ()):
                if (node, line) not in self._noticed:
                    self._noticed.add((node, line))
                    self.say(node, line)


def training_note(values: dict[str, Any]) -> str:
    """Losses, speed and what is left of a training, in a few words."""
    losses = "  ".join(f"{k} {values[k]:.3f}" for k in ("loss", "itc", "itm", "lm") if k in values)
    speed = values.get("steps_per_second", 0.0)
    left = (values["total"] - values["step"]) / speed if speed else 0.0
    samples = f"{values['samples_per_second']:,.0f} samples/s  " if "samples_per_second" in values else ""
    mfu = f"MFU {values['mfu']:.1%}  " if "mfu" in values else ""
    return f"{losses}  {speed:.1f} steps/s  {samples}{mfu}{left:.0f} s left"


def _amount(entry: NodeProgress) -> str:
    total = f"/{entry.total:,}" if entry.total else ""
    return f"{entry.done:,}{total} {entry.unit}"


def _table(nodes: list[NodeProgress]) -> Table:
    table = Table.grid(padding=(0, 2))
    for entry in nodes:
        bar = ProgressBar(total=entry.total or 1, completed=entry.done, width=24, pulse=not entry.total)
        table.add_row(f"[bold]{entry.node}[/]", bar, _amount(entry), entry.note)
    return table


POLL_SECONDS = 0.5
