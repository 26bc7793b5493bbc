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
from pipeline.stopping import Stop
from stages.store import Store


@dataclass
class Run:
    """One run in the driver: config, place, plan and what watches it."""

    config: Config
    store: Store
    ledger: Ledger
    nodes: dict[str, Node]
    prints: Fingerprints
    progress: Progress
    board: Board
    stop: Stop

    def sizing(self) -> Sizing:
        return size(self.config.cluster)
