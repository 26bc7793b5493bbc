"""Errors that end a command with one line instead of a trace, and the cause of all others in one line."""

from __future__ import annotations

from collections.abc import Iterator

from capfilt.cluster.config import ClusterError
from capfilt.models.checkpoints.files import CheckpointError
from capfilt.stages.errors import UserError

USER_ERRORS = (UserError, CheckpointError, ClusterError)
"""Errors that a user can fix; each message is one line that says how. Any other error is a defect and keeps its trace."""

FIRST_OF_TWO = "The above exception was the direct cause of the following exception"
"""What a trace says between an error and the error that was raised from it."""


class NodeFailed(UserError):
    """A node cannot end well; the message says why and what to do. What the node has committed stays."""


def is_user_error(error: BaseException) -> bool:
    """Whether an error is one of `USER_ERRORS`.

    Ray wraps a worker's error in a class that it derives from both its own and the original class; such a wrapper does
    not count, because its message is a trace.
    """
    return isinstance(error, USER_ERRORS) and type(error).__module__.startswith("capfilt.")


def origin(error: BaseException) -> BaseException:
    """The first error of a chain of causes. Ray wraps a worker's exception several times; a user error says more than
    what caused it, so the search ends there."""
    *_, last = _layers(error)
    return last


def root_cause(error: BaseException) -> str:
    """One line about the first error of a chain of causes."""
    layers = list(_layers(error))
    if not is_user_error(layers[-1]):
        for text in map(str, layers):
            # Ray Data appends advice of its own to a stage's trace, and keeps only the trace of the stage's error.
            before, mark, _ = text.partition(FIRST_OF_TWO)
            if mark and (lines := _lines(before)):
                return lines[-1]
    name, lines = type(layers[-1]).__name__, _lines(str(layers[-1]))
    return f"{name}: {lines[-1]}" if lines else name


def _layers(error: BaseException) -> Iterator[BaseException]:
    """The error, the error it wraps, and so on."""
    while True:
        yield error
        inner = getattr(error, "cause", None) or error.__cause__
        if is_user_error(error):
            return
        if inner is None or inner is error:
            failures = getattr(error, "worker_failures", None)
            if not failures:
                return
            inner = next(iter(failures.values()))
        error = inner


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
