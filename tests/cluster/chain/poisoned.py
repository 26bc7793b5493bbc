"""Stages that fail in various ways; the caption of a row says what it does to the process. Child processes
import this module, too."""

import ctypes
import os
import re
import signal
import sys
import time

import pandas as pd  # noqa: F401  imported here: pyarrow's first use of pandas can take as long as a stall
import pyarrow as pa

from capfilt.stages.rows import ROW_SCHEMA, table_of, with_column


def batch(*captions: str) -> pa.Table:
    """A shard with one row per caption."""
    common = {"source": "s", "shard": 7, "status": "success", "image": b"x"}
    rows = [common | {"key": str(i), "caption": c} for i, c in enumerate(captions)]
    return table_of(rows, ROW_SCHEMA)


def poison(kind: str) -> None:
    """Misbehave, for at most half a minute; harmless for any other caption."""
    if kind == "raise":
        raise ValueError("cannot process it")
    if kind == "exit":
        sys.exit(3)
    if kind == "abort":
        os._exit(9)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segv":
        ctypes.string_at(0)
    if kind == "hang":  # inside native code that holds the GIL
        re.match(r"(a+)+$", "a" * 40 + "b")
    if kind == "leak":
        held = []
        for _ in range(64):  # 4 GB
            held.append(b"x" * (64 << 20))
            time.sleep(0.1)
        time.sleep(30)


class Poisoned:
    """Adds a column with the length of the caption."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        captions = batch["caption"].to_pylist()
        for caption, status in zip(captions, batch["status"].to_pylist(), strict=True):
            if status == "success":
                poison(caption)
        return with_column(batch, "length", [len(c) for c in captions], pa.int64())


class ReportsEveryTenthOfASecond:
    """Takes three seconds for a batch and reports its progress."""

    def on_progress(self, callback) -> None:
        self.callback = callback

    def __call__(self, batch: pa.Table) -> pa.Table:
        for _ in range(30):
            time.sleep(0.1)
            self.callback()
        return batch


class Unpicklable(Exception):
    """An exception that cannot be unpickled: its constructor needs another argument than its message."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(f"{text} ({code})")


class RaisesUnpicklable:
    def __call__(self, batch: pa.Table) -> pa.Table:
        raise Unpicklable(5, text="strange")


class Unbuildable:
    def __init__(self) -> None:
        raise OSError("no such checkpoint")


class AbortsOnBuild:
    def __init__(self) -> None:
        os.abort()


class DiesOnFirstBuilds:
    """Exits in the first `deaths` processes that build it, counted by files in a folder."""

    def __init__(self, folder: str, deaths: int) -> None:
        count = len(os.listdir(folder))
        open(os.path.join(folder, str(count)), "w").close()
        if count < deaths:
            os._exit(1)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch


class PoisonedByUrl:
    """Like `Poisoned`, in a later stage: the url of a row says what it does to the process."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        for url, status in zip(batch["url"].to_pylist(), batch["status"].to_pylist(), strict=True):
            if status == "success":
                poison(url)
        return batch
