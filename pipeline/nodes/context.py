"""What every node of a run works with."""

from __future__ import annotations

from dataclasses import dataclass

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.sizing import Sizing, size
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.console.signals import Stop
from capfilt.pipeline.plan import Node
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.storage.store import Store


@dataclass
class RunContext:
    """One run in the driver: config, place, plan and what watches it."""

    config: Config
    store: Store
    ledger: Ledger
    nodes: dict[str, Node]
    prints: Fingerprints
    progress: Progress
    board: StatusBoard
    stop: Stop

    def sizing(self) -> Sizing:
        return size(self.config.cluster)
