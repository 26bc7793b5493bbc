"""What a node of the DAG is, and what the program has to know about each kind of node.

A kind is one object, defined in one file under `pipeline/nodes/`: what its nodes write, what determines that output, and
how the work is done. Its file imports neither Ray nor torch when it is imported; `NodeKind.run` does, when the node's
turn comes. `pipeline.plan` says which nodes a config asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints


@dataclass(frozen=True)
class NodeResult:
    """What a node has done, for its record and for the progress display."""

    summary: str
    """One line for the user."""
    outputs: tuple[str, ...] = ()
    """Folders of the run directory that hold what the node has made."""
    counts: dict[str, Any] | None = None
    """Rows, candidates, pairs, …; None where the node counts nothing."""
    models: dict[str, str] | None = None
    """Digests of the checkpoints that were used, by role."""
    results: dict[str, Any] | None = None
    """Evaluation of each model."""


@dataclass(frozen=True, eq=False)
class NodeKind:
    """One kind of node."""

    name: str
    outputs: Callable[[Node], list[str]]
    """Folders of the run directory that a node of this kind writes, and that `--fresh` removes."""
    inputs: Callable[[Fingerprints, Node], dict[str, Any]]
    """JSON-like data that determines the output; the node's fingerprint is made of it. Leave out what only changes how
    fast the work is done (batch sizes, workers, timeouts), so that a node that has begun can go on with other values."""
    run: Callable[[RunContext, Node], NodeResult]
    """Does the work, or what is left of it, on the driver in a thread of its own; raises NodeFailed."""
    streams_shards: bool = False
    """The node commits shard by shard: it can be stopped between shards, and verified and repaired by shard."""
    judges: bool = False
    """The node makes candidates of corpus shards."""
    trains: bool = False
    """The node writes a checkpoint to `models/<node>/`."""
    stale_after: tuple[str, ...] = ()
    """Kinds of source (human, web, test) whose changed shards make the output stale: it is removed and made again."""

    def __repr__(self) -> str:
        return f"NodeKind({self.name!r})"


@dataclass(frozen=True)
class Node:
    """One step of the DAG."""

    name: str
    kind: NodeKind
    round: int
    needs: tuple[str, ...]
    """Names of the nodes whose output this one reads."""
    sources: tuple[str, ...] = ()
    """Sources whose shards the node fetches or judges."""

    @property
    def outputs(self) -> list[str]:
        """Folders of the run directory that the node writes."""
        return self.kind.outputs(self)
