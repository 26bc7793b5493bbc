"""What the engine expects of a stage, and what a stage may offer beyond that.

The contract of a stage:

- A stage is built once per process, by a maker without arguments (`functools.partial` of the class and its
  config). The maker must be picklable, because it is sent to the process; the stage need not be.
- A stage maps one shard, a table with one row per image, to a table with the same rows in the same order and
  with columns added or replaced. The engine checks the number of rows. Only a reader, which turns an item
  into the rows of a shard, and a writer, which returns a summary, may change it.
- A row that has failed before passes through, with empty values in the columns that the stage adds. A row
  that fails in the stage for a foreseen reason gets a status and passes through, too.
- A stage may raise on a row that it cannot process. The engine then finds this row, marks it as failed and
  processes the others, so a stage must accept any part of a shard, any number of times.
- A stage does not use Ray, so that it gives the same result in a test or a notebook.

Stages implement these protocols structurally; no base class and no registration is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import pyarrow as pa


class Stage(Protocol):
    """Maps the rows of a shard to the same rows."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Process a shard, or a part of one."""


@runtime_checkable
class ReportsProgress(Protocol):
    """A slow stage that reports its progress, so that the watchdog does not mistake it for a hanging one."""

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Call `callback`, which is cheap and thread-safe, after each unit of work from now on."""


@runtime_checkable
class SendsNotices(Protocol):
    """A stage that has something to tell the user, such as a batch size reduced for lack of memory."""

    def on_notice(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with each line for the user from now on."""


@runtime_checkable
class HasRate(Protocol):
    """A stage with a model, which knows how fast the model alone is."""

    def rate(self) -> float | None:
        """Images per second of the model on its device; None while it is unknown."""


@runtime_checkable
class HasShardwisePart(Protocol):
    """A reader or writer whose work on single rows is a separate stage (`Step.rowwise`).

    An error of the shardwise part, such as a full disk, is not the fault of a row and fails the shard.
    """

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """The part of the stage that handles the shard as a whole: a reader's before its rowwise part, a
        writer's after it."""
