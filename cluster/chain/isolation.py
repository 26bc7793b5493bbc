"""Which rows of a shard a stage cannot take: found by dividing, and ended; the others go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

Stage = Callable[[pa.Table], pa.Table]

WHOLESALE = 4
"""A stage that fails on every one of so many rows or more is broken itself."""
DEATHS = 64
"""Deaths of its process that the search through one shard may cost; each row that kills costs about five."""
PARTS = 2
"""Parts a batch is divided into after an exception."""
PARTS_AFTER_DEATH = 8
"""The same after a death, which costs a start: more parts at once, fewer deaths."""


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """How rows that a stage cannot take are told apart from the others; all must be picklable."""

    fail: Callable[[pa.Table, Exception], pa.Table]
    """Rows marked as failed by this error, so that stages pass over them."""
    crash: Callable[[pa.Table, str], pa.Table]
    """Rows marked as failed because the process that has them dies, with what is known about it."""
    live: Callable[[pa.Table], int]
    """How many of these rows a stage has work with."""
    name: Callable[[pa.Table], str]
    """Name of the shard these rows are."""
    never: tuple[type[Exception], ...] = ()
    """Errors that are no row's fault, such as a store that is away: they fail the shard, which is tried again."""


class Broken(RuntimeError):
    """A stage's own defect, whatever the rows."""


class RowsLost(Broken):
    """A stage returned another number of rows than it got: a defect of that stage, never of the data."""


class ProcessDied(Exception):
    """The process of a stage died with rows in hand.

    Args:
        cause: how it ended.
        certain: nothing from outside can have caused it: no second trial is needed.
    """

    def __init__(self, cause: str, *, certain: bool = False) -> None:
        super().__init__(cause)
        self.certain = certain


def call_checked(name: str, stage: Stage, batch: pa.Table) -> pa.Table:
    """What the stage returns, with as many rows as it got.

    Raises:
        RowsLost: it has not.
        Exception: what the stage raises.
    """
    try:
        out = stage(batch)
    except SystemExit as error:  # it would end the worker, and look like a death
        raise RuntimeError(f"SystemExit: {error.code}") from error
    if out.num_rows != batch.num_rows:
        raise RowsLost(f"stage {name} got {batch.num_rows} rows and returned {out.num_rows}")
    return out


class Search:
    """Runs a stage over a batch; the rows on which it fails are found by dividing, and end with a status.

    Args:
        name: of the stage.
        stage: what is called; may raise ProcessDied.
        isolation: how rows are marked.
    """

    def __init__(self, name: str, stage: Stage, isolation: Isolation) -> None:
        self.name, self.stage, self.isolation = name, stage, isolation
        self._deaths = 0
        self._crashed = 0
        self._guilty = 0
        self._through: tuple[type[Exception], ...] = (Broken, *isolation.never)
        self._spared = False

    def run(self, batch: pa.Table) -> pa.Table:
        """The stage's result, with as many rows.

        Raises:
            Broken: the stage's own defect.
            Exception: the stage's, when it raises on every row.
        """
        try:
            return self.call(batch)
        except self._through:
            raise
        except Exception as of_all:
            error = of_all
        due = self.isolation.live(batch)
        out = self._divided(batch, error)
        # Rows that the stage itself has ended, such as dead links, are none it failed on.
        if due >= WHOLESALE and self._guilty >= due:
            raise self._broken(error)  # on every row: the stage is broken, not the rows
        return out

    def call(self, batch: pa.Table) -> pa.Table:
        """The stage's result, as it comes; deaths are counted."""
        try:
            return call_checked(self.name, self.stage, batch)
        except ProcessDied as death:
            self._deaths += 1
            if self._deaths > DEATHS:
                raise Broken(f"{death}; {DEATHS} deaths are too many for the search to go on") from death
            raise

    def _divided(self, batch: pa.Table, error: Exception) -> pa.Table:
        """The stage's result for a batch on which it failed with `error`."""
        if batch.num_rows == 1:
            return self._alone(batch, error)
        parts = PARTS_AFTER_DEATH if isinstance(error, ProcessDied) else PARTS
        size = -(-batch.num_rows // parts)
        results = []
        for start in range(0, batch.num_rows, size):
            part = batch.slice(start, size)
            try:
                results.append(self.call(part))
                self._spared = self._spared or self.isolation.live(part) > 0
            except self._through:
                raise
            except Exception as of_part:
                results.append(self._divided(part, of_part))
        return pa.concat_tables(results)

    def _alone(self, row: pa.Table, error: Exception) -> pa.Table:
        if not isinstance(error, ProcessDied):
            return self._fail(row, error)
        if not error.certain:
            # Processes are killed from outside too. A row is guilty when it was alone in hand at two deaths.
            try:
                return self.call(row)
            except self._through:
                raise
            except ProcessDied as again:
                error = again
            except Exception as other:
                return self._fail(row, other)
        self._crashed += 1
        if self._crashed >= 2 * WHOLESALE and not self._spared:
            raise self._broken(error)
        self._guilty += 1
        trials = "with this row alone" if error.certain else "twice with this row alone"
        return self.call(self.isolation.crash(row, f"{self.name}: {error}, {trials}"))

    def _fail(self, row: pa.Table, error: Exception) -> pa.Table:
        self._guilty += 1
        return self.call(self.isolation.fail(row, error))

    def _broken(self, error: Exception) -> Exception:
        return Broken(f"{error}, whatever row it has") if isinstance(error, ProcessDied) else error
