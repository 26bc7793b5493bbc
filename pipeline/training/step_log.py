"""The metrics of every training step, as JSON lines and as TensorBoard events.

Each file is written once, as a whole, and named by its first step. Any store can hold such files, a resumed
training replaces exactly the steps that it repeats, and TensorBoard, which reads the files of a folder in the
order of their names, follows a running training. The learner flushes the log at each checkpoint, so no file
spans a checkpoint.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping

from capfilt.stages.storage.store import Store

FLUSH_SECONDS = 20.0
"""Shortest time between two files that are written automatically."""
FLUSH_SHARE = 0.01
"""The same as a share of the training's duration so far, which bounds the number of files: a training of a
week writes some hundreds."""


class StepLog:
    """Writes `<first step>.jsonl` and `events.out.tfevents.<first step>` into a folder; one process writes.

    Args:
        folder: of one training, on any store.
        steps_done: steps done so far; files of later steps are removed, because these steps will be repeated.
    """

    def __init__(self, folder: Store, steps_done: int) -> None:
        self.folder = folder
        self._rows: list[dict[str, float]] = []
        self._start = self._last_flush = time.monotonic()
        for name in folder.list():
            if _first_step(name) > steps_done:
                folder.remove_file(name)

    def add(self, row: Mapping[str, float]) -> None:
        """Add the metrics of one step, among them "step" (from 1). Steps must be added in order."""
        self._rows.append(dict(row))
        now = time.monotonic()
        if now - self._last_flush > max(FLUSH_SECONDS, FLUSH_SHARE * (now - self._start)):
            self.flush()

    def flush(self) -> None:
        """Write the rows added since the last flush; without rows no file is written."""
        self._last_flush = time.monotonic()
        if not self._rows:
            return
        first = int(self._rows[0]["step"])
        self.folder.put(f"events.out.tfevents.{first:09d}", _tensorboard_events(self._rows))
        lines = (json.dumps(row, allow_nan=True) for row in self._rows)
        self.folder.put(f"{first:09d}.jsonl", ("\n".join(lines) + "\n").encode())
        self._rows = []


def _first_step(name: str) -> int:
    """First step in a log file, from its name; 0 for any other file."""
    digits = name.removesuffix(".jsonl").rpartition(".")[2]
    return int(digits) if digits.isdigit() else 0


def _tensorboard_events(rows: list[dict[str, float]]) -> bytes:
    """The rows as the content of a TensorBoard event file."""
    from tensorboardX import SummaryWriter  # slow to import, and only rank 0 writes

    with tempfile.TemporaryDirectory(prefix="capfilt-") as folder:
        writer = SummaryWriter(folder, write_to_disk=True)
        for row in rows:
            for name, value in row.items():
                if name not in ("step", "time"):
                    writer.add_scalar(name, value, int(row["step"]), walltime=row.get("time"))
        writer.close()
        (file,) = os.listdir(folder)
        with open(os.path.join(folder, file), "rb") as stream:
            return stream.read()
