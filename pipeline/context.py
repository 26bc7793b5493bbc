"""What every node of a run works with."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.metrics import Board
from cluster.sizing import Sizing, size
from pipeline.config import Config
from pipeline.inputs import Fingerprints
from pipeline.ledger import Ledger
from pipeline.plan import Node
from pipeline.progress import Progress
from stages.store import Store


class NodeFailed(RuntimeError):
    """A node cannot end well; the message says why and what to do. What it committed stays."""


@dataclass
class Run:
    """One run in the driver: config, place, plan and what watches it."""

    config: Config
    store: Store
    ledger: Ledger
    nodes: dict[str, Node]
    prints: Fingerprints
    progress: Progress
    board: Board | None
    """None until the cluster is there."""

    def sizing(self) -> Sizing:
        return size(self.config.cluster)


def outputs_of(node: Node) -> list[str]:
    """Folders a node makes, inside the run directory."""
    if node.kind == "fetch":
        return [f"corpus/{source}" for source in node.sources]
    if node.kind == "bootstrap":
        return [f"rounds/{node.round}/{source}" for source in node.sources]
    if node.kind == "report":
        return [f"reports/{node.round}"]
    return [] if node.kind == "evaluate" else [f"models/{node.name}", f"train/{node.name}"]
