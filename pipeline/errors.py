"""Errors that end a command with one line instead of a trace."""

from __future__ import annotations

from cluster.config import ClusterError
from models.files import CheckpointError
from pipeline.lease import LeaseError
from pipeline.ledger import LedgerError
from pipeline.load import ConfigError
from pipeline.plan import UnknownNode
from stages.artifacts import ArtifactError
from stages.manifest import ManifestError
from stages.pairs import PartsError
from stages.retry import UnknownClass
from stages.store import StoreError


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
