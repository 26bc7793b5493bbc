"""A stage of which a row's caption says what it does to the process. Imported by child processes too."""

import ctypes
import os
import re
import signal
import sys
import time

import pandas as pd  # noqa: F401  pyarrow's first use of it can take seconds, which are no row's
import pyarrow as pa

from capfilt.stages.rows import ROW_SCHEMA, table_of, with_column


def batch(*captions: str) -> pa.Table:
    of_all = {"source": "s", "shard": 7, "status": "success", "image": b"x"}
    rows = [of_all | {"key": str(i), "caption": c} for i, c in enumerate(captions)]
    return table_of(rows, ROW_SCHEMA)


def poison(kind: str) -> None:
    """Do it, for half a minute at the most."""
    if kind == "raise":
        raise ValueError("cannot stand it")
    if kind == "exit":
        sys.exit(3)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segv":
        ctypes.string_at(0)
    if kind == "hang":  # inside native code that keeps Python's lock
        re.match(r"(a+)+$", "a" * 40 + "b")
    if kind == "leak":
        held = []
        for _ in range(64):  # 4 GB
            held.append(b"x" * (64 << 20))
            time.sleep(0.1)
        time.sleep(30)


class Poisoned:
    def __call__(self, batch: pa.Table) -> pa.Table:
        captions = batch["caption"].to_pylist()
        for caption, status in zip(captions, batch["status"].to_pylist(), strict=True):
            if status == "success":
                poison(caption)
        return with_column(batch, "length", [len(c) for c in captions], pa.int64())


class Beats:
    """Takes three seconds for a batch and says so."""

    def on_progress(self, told) -> None:
        self.told = told

    def __call__(self, batch: pa.Table) -> pa.Table:
        for _ in range(30):
            time.sleep(0.1)
            self.told()
        return batch


class Unbuildable:
    def __init__(self) -> None:
        raise OSError("no such checkpoint")


class DiesAtOnce:
    def __init__(self) -> None:
        os.abort()
