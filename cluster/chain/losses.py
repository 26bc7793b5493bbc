"""Executions that end because machines or processes were lost, not because of what they did.

Ray Data repeats the tasks of a lost machine, but not without limit: a task that cannot reach its actor fails
at once, and an execution ends after a few failed blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError

LOSSES = (RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError)


class PassEnded(RuntimeError):
    """A pass has ended early for a reason of the cluster: the next one may get further."""

    kind = "error"
    """Label of the metric that counts repeated passes."""
    settle_seconds = 0.0
    """Time before the next pass is sized."""


class MachinesLost(PassEnded):
    """Machines or processes of a pass were lost, and with them more than its engine repeats."""

    kind = "lost"
    settle_seconds = 15.0
    """Ray counts the resources of a lost machine for some seconds more. A pass that is sized with them waits
    for actors that never start."""


@contextmanager
def losses_named() -> Iterator[None]:
    """Raise `MachinesLost` for the errors by which Ray tells of it."""
    try:
        yield
    except Exception as error:
        lost = next((each for each in _causes(error) if isinstance(each, LOSSES)), None)
        if lost is None:
            raise
        raise MachinesLost(f"machines or processes were lost ({type(lost).__name__})") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, then what Ray has wrapped in it."""
    while error is not None:
        yield error
        error = error.__cause__
