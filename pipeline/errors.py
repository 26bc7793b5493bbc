"""Errors that end a command with one line instead of a trace, and what to say of the others."""

from __future__ import annotations

from collections.abc import Iterator

from capfilt.cluster.config import ClusterError
from capfilt.models.checkpoints.files import CheckpointError
from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.plan import UnknownNode
from capfilt.pipeline.rundir.lease import LeaseError
from capfilt.pipeline.rundir.ledger import LedgerError
from capfilt.stages.manifest.index import ManifestError
from capfilt.stages.pairs.parts import PartsError
from capfilt.stages.shards.retry import UnknownClass
from capfilt.stages.storage.artifacts import ArtifactError
from capfilt.stages.storage.store import StoreError


class NodeFailed(RuntimeError):
    """A node cannot end well; the message says why and what to do. What it committed stays."""


USER_ERRORS = (
    ArtifactError,
    CheckpointError,
    ClusterError,
    ConfigError,
    LeaseError,
    LedgerError,
    ManifestError,
    NodeFailed,
    PartsError,
    StoreError,
    UnknownClass,
    UnknownNode,
)
"""What a user can mend; each message is one line that says how. Anything else is a defect and keeps its trace."""

FIRST_OF_TWO = "The above exception was the direct cause of the following exception"
"""What a trace says between an error and the one that was made of it."""


def origin(error: BaseException) -> BaseException:
    """The error that started it all. Ray wraps a worker's exception several times, also in classes that are of both
    kinds; one that is meant for the user says more than what caused it."""
    *_, last = _layers(error)
    return last


def root_cause(error: BaseException) -> str:
    """One line about the error that started it all."""
    layers = list(_layers(error))
    if type(layers[-1]) not in USER_ERRORS:
        for text in map(str, layers):
            # Ray Data ends a stage's trace with advice of its own, and keeps of the stage's error the trace alone.
            before, mark, _ = text.partition(FIRST_OF_TWO)
            if mark and (lines := _lines(before)):
                return lines[-1]
    name, lines = type(layers[-1]).__name__, _lines(str(layers[-1]))
    return f"{name}: {lines[-1]}" if lines else name


def _layers(error: BaseException) -> Iterator[BaseException]:
    """The error, what it wraps, what that wraps, and so on."""
    while True:
        yield error
        inner = getattr(error, "cause", None) or error.__cause__
        if type(error) in USER_ERRORS:
            return
        if inner is None or inner is error:
            failures = getattr(error, "worker_failures", None)
            if not failures:
                return
            inner = next(iter(failures.values()))
        error = inner


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
