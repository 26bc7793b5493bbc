"""Errors that end a command with one line instead of a trace, and one line about any other error."""

from __future__ import annotations

import re
from collections.abc import Iterator

from capfilt.cluster.config import ClusterError
from capfilt.models.checkpoints.files import CheckpointError
from capfilt.stages.errors import UserError

USER_ERRORS = (UserError, CheckpointError, ClusterError)
"""Errors that a user can fix; each message is one line that says how. Any other error is a defect and keeps
its trace."""

_QUOTED = re.compile(r"^capfilt\.[\w.]+\.(\w+): (.+)$", re.MULTILINE)
"""The last line of the trace of an error of the program."""
NO_CAUSE = "SystemException"
"""Ray Data raises every error that no stage has raised from an error of this name, without a message."""
FIRST_OF_TWO = "The above exception was the direct cause of the following exception"
"""What a trace prints between an error and the error that was raised from it."""


class NodeFailed(UserError):
    """A node cannot finish; the message says why and what to do. What the node has committed stays."""


def is_user_error(error: BaseException) -> bool:
    """Whether an error is one of `USER_ERRORS`.

    Ray wraps a worker's error in a class that it derives from both its own and the original class. Such a
    wrapper does not count, because its message is a trace.
    """
    return isinstance(error, USER_ERRORS) and type(error).__module__.startswith("capfilt.")


def first_error(error: BaseException) -> BaseException:
    """The error that caused all others in a chain of causes.

    Ray wraps a worker's exception several times. The search ends at a user error, whose message says more
    than its own cause.
    """
    *_, last = _causes(error)
    return last


def quoted_user_error(error: BaseException) -> tuple[str, str] | None:
    """(name of the class, message) of a user error that stands in the text of a wrapper only, None without.

    Of the error of a stage Ray Data keeps the trace, not the error.
    """
    names = {name for kind in USER_ERRORS for name in _names_of(kind)}
    found = (match for text in map(str, _causes(error)) for match in _QUOTED.findall(text))
    return next(((name, message) for name, message in found if name in names), None)


def _names_of(kind: type[BaseException]) -> Iterator[str]:
    yield kind.__name__
    for each in kind.__subclasses__():
        yield from _names_of(each)


def root_cause(error: BaseException) -> str:
    """One line about the error that caused all others in a chain of causes, or about the user error in it."""
    chain = list(_causes(error))
    first = chain[-1]
    if not is_user_error(first):
        if (quoted := quoted_user_error(error)) is not None:
            return ": ".join(quoted)
        for text in map(str, chain):
            # Ray Data keeps only the trace of a stage's error, and appends advice of its own to it.
            before, mark, _ = text.partition(FIRST_OF_TWO)
            if mark and (lines := _lines(before)):
                return lines[-1]
    name, lines = type(first).__name__, _lines(str(first))
    return f"{name}: {lines[-1]}" if lines else name


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then the error that it wraps or was raised from, and so on."""
    while True:
        yield error
        cause = getattr(error, "cause", None) or error.__cause__
        if is_user_error(error):
            return
        if cause is None or cause is error or type(cause).__name__ == NO_CAUSE:
            failures = getattr(error, "worker_failures", None)
            if not failures:
                return
            cause = next(iter(failures.values()))
        error = cause


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
