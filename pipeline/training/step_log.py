"""The numbers of every training step, as JSON lines and as TensorBoard events.

Both go into files that are written once, whole, and named by their first step: any store can hold them, a resumed
training replaces exactly the steps that it repeats, and TensorBoard, which reads a folder's files in the order of
their names, follows a running training. No file reaches across a checkpoint.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping

from capfilt.stages.storage.store import Store

FLUSH_SECONDS = 20.0
FLUSH_SHARE = 0.01
"""Share of the training's time between two files, once that is longer: a week's training ends with some hundred."""


class StepLog:
    """Writes `<folder>/<first step>.jsonl` and `events.out.tfevents.<first step>`; one process writes.

    Args:
        folder: of one training, on any store.
        done: steps done so far; what the folder holds of later ones is removed, since they are taken again.
    """

    def __init__(self, folder: Store, done: int) -> None:
        self.folder = folder
        self._rows: list[dict[str, float]] = []
        self._started = self._flushed = time.monotonic()
        for name in folder.list():
            if _first_step(name) > done:
                folder.remove_file(name)

    def add(self, row: Mapping[str, float]) -> None:
        """The numbers of one step, "step" (from 1) among them; steps must come in their order."""
        self._rows.append(dict(row))
        now = time.monotonic()
        if now - self._flushed > max(FLUSH_SECONDS, FLUSH_SHARE * (now - self._started)):
            self.flush()

    def flush(self) -> None:
        """Write what has come since the last flush."""
        self._flushed = time.monotonic()
        if not self._rows:
            return
        first = int(self._rows[0]["step"])
        self.folder.put(f"events.out.tfevents.{first:09d}", _tensorboard_events(self._rows))
        lines = (json.dumps(row, allow_nan=True) for row in self._rows)
        self.folder.put(f"{first:09d}.jsonl", ("\n".join(lines) + "\n").encode())
        self._rows = []


def read_steps(folder: Store) -> list[dict[str, float]]:
    """All rows of a training's log, by step."""
    files = folder.list(suffix=".jsonl")
    return [json.loads(line) for name in files for line in folder.read(name).decode().splitlines()]


def _first_step(name: str) -> int:
    digits = name.removesuffix(".jsonl").rpartition(".")[2]
    return int(digits) if digits.isdigit() else 0


def _tensorboard_events(rows: list[dict[str, float]]) -> bytes:
    from tensorboardX import SummaryWriter  # slow to import; only the first worker writes

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
