"""Find the rows of a shard that a stage cannot process, mark them as failed, and process the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from capfilt.cluster.chain.stage import Stage

BROKEN_STAGE_MIN_ROWS = 4
"""If a stage fails on all of at least this many active rows, the stage is considered broken, not the rows."""
MAX_DEATHS = 64
"""Process deaths that the search through one shard may cost; a row that kills costs about five."""
PARTS_AFTER_EXCEPTION = 2
"""Number of parts that a batch is split into after an exception."""
PARTS_AFTER_DEATH = 8
"""The same after a death. A death costs a process start, so more parts and fewer deaths are cheaper."""


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """How failed rows are recognized and marked. All functions must be picklable."""

    mark_failed: Callable[[pa.Table, Exception], pa.Table]
    """Marks all rows as failed with this exception, so that stages skip them."""
    mark_crashed: Callable[[pa.Table, str], pa.Table]
    """Marks all rows as failed because they crash the worker process, with the cause."""
    count_active: Callable[[pa.Table], int]
    """Number of rows that have not failed: those that a stage works on."""
    shard_name: Callable[[pa.Table], str]
    """Name of the shard that the rows belong to."""
    propagate: tuple[type[Exception], ...] = ()
    """Exceptions that are never caused by a row, such as an unreachable store: they fail the whole shard,
    which is retried."""


class StageBroken(RuntimeError):
    """The stage itself is at fault, whatever the rows."""


class RowsLost(StageBroken):
    """A stage returned a different number of rows than it received."""


class ProcessDied(Exception):
    """The worker process of a stage died while it processed rows.

    Args:
        cause: how the process ended.
        conclusive: the rows are the cause for certain; otherwise something outside, such as the kernel's
            out-of-memory killer, may have ended the process, and a second attempt is needed.
    """

    def __init__(self, cause: str, *, conclusive: bool = False) -> None:
        super().__init__(cause)
        self.conclusive = conclusive


def call_checked(name: str, stage: Stage, batch: pa.Table) -> pa.Table:
    """Call a stage and check that it returns as many rows as it received.

    Raises:
        RowsLost: the number of rows differs.
        Exception: whatever the stage raises.
    """
    try:
        out = stage(batch)
    except SystemExit as error:  # would end the worker process and look like a death
        raise RuntimeError(f"SystemExit: {error.code}") from error
    if out.num_rows != batch.num_rows:
        raise RowsLost(f"stage {name} received {batch.num_rows} rows and returned {out.num_rows}")
    return out


class RowIsolator:
    """Runs a stage over a shard; if the stage fails, splits the shard until the offending rows are found.

    Offending rows are marked as failed and passed through the stage once more, so that they get its columns.
    Use one instance per shard: it counts deaths and failed rows.

    Args:
        name: name of the stage.
        stage: the stage; may raise ProcessDied if it runs in another process.
        isolation: how rows are marked.
    """

    def __init__(self, name: str, stage: Stage, isolation: Isolation) -> None:
        self.name, self.stage, self.isolation = name, stage, isolation
        self._propagate: tuple[type[Exception], ...] = (StageBroken, *isolation.propagate)
        self._deaths = 0
        self._failed_rows = 0
        self._crashed_rows = 0
        self._any_success = False
        """Whether the stage has succeeded on a part with active rows."""

    def run(self, batch: pa.Table) -> pa.Table:
        """Process a shard.

        Returns:
            The result of the stage, one row per row of `batch`.

        Raises:
            StageBroken: the process of the stage dies on every row, or too often.
            Exception: an exception of `Isolation.propagate`, or the one that the stage raises on every row.
        """
        try:
            return self._call(batch)
        except self._propagate:
            raise
        except Exception as raised:
            error = raised
        active = self.isolation.count_active(batch)
        out = self._bisect(batch, error)
        # Compared with the rows that were active before, since the stage may itself have given rows a failed
        # status.
        if active >= BROKEN_STAGE_MIN_ROWS and self._failed_rows >= active:
            raise self._broken(error)
        return out

    def _call(self, batch: pa.Table) -> pa.Table:
        """Call the stage and count deaths."""
        try:
            return call_checked(self.name, self.stage, batch)
        except ProcessDied as death:
            self._deaths += 1
            if self._deaths > MAX_DEATHS:
                raise StageBroken(
                    f"{death}; the search for the offending rows stopped after {MAX_DEATHS} process deaths"
                ) from death
            raise

    def _bisect(self, batch: pa.Table, error: Exception) -> pa.Table:
        """Process a batch, on which the stage failed with `error`, in parts."""
        if batch.num_rows == 1:
            return self._run_single(batch, error)
        parts = PARTS_AFTER_DEATH if isinstance(error, ProcessDied) else PARTS_AFTER_EXCEPTION
        size = -(-batch.num_rows // parts)
        results = []
        for start in range(0, batch.num_rows, size):
            part = batch.slice(start, size)
            try:
                results.append(self._call(part))
                self._any_success = self._any_success or self.isolation.count_active(part) > 0
            except self._propagate:
                raise
            except Exception as part_error:
                results.append(self._bisect(part, part_error))
        return pa.concat_tables(results)

    def _run_single(self, row: pa.Table, error: Exception) -> pa.Table:
        """Handle a row on which the stage failed with `error` when it was the only one."""
        if not isinstance(error, ProcessDied):
            return self._pass_failed(row, error)
        if not error.conclusive:
            # Processes are also killed from outside. A row is marked only if the process dies on it twice.
            try:
                return self._call(row)
            except self._propagate:
                raise
            except ProcessDied as second_death:
                error = second_death
            except Exception as other:
                return self._pass_failed(row, other)
        self._crashed_rows += 1
        # Every row may cost several deaths: do not wait for the last row to conclude that the stage is
        # broken.
        if self._crashed_rows >= 2 * BROKEN_STAGE_MIN_ROWS and not self._any_success:
            raise self._broken(error)
        self._failed_rows += 1
        attempts = "an attempt" if error.conclusive else "two attempts"
        return self._call(
            self.isolation.mark_crashed(row, f"{self.name}: {error}, in {attempts} with only this row")
        )

    def _pass_failed(self, row: pa.Table, error: Exception) -> pa.Table:
        self._failed_rows += 1
        return self._call(self.isolation.mark_failed(row, error))

    def _broken(self, error: Exception) -> Exception:
        """What to raise when the stage fails on all rows."""
        return StageBroken(f"{error}, on every row") if isinstance(error, ProcessDied) else error
