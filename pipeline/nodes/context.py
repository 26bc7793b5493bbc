"""What a running node works with."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.nodes import driver_address
from capfilt.cluster.sizing import Sizing, divide_cluster
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.console.signals import StopSignal
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.bootstrap.model_source import ModelSource, Role
from capfilt.stages.storage.artifacts import absolute_address
from capfilt.stages.storage.layout import model_folder
from capfilt.stages.storage.store import Store


@dataclass(frozen=True)
class RunContext:
    """A run in progress, on the driver."""

    run_dir: RunDir
    progress: Progress
    board: StatusBoard
    stop: StopSignal
    vocabulary_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the vocabulary of new models is made: several pretrainings can begin at once."""

    @property
    def config(self) -> Config:
        return self.run_dir.config

    @property
    def store(self) -> Store:
        return self.run_dir.store

    @property
    def ledger(self) -> Ledger:
        return self.run_dir.ledger

    @property
    def fingerprints(self) -> Fingerprints:
        return self.run_dir.fingerprints

    def sizing(self) -> Sizing:
        """How the machines that the cluster has now are divided among the stages."""
        return divide_cluster(self.config.cluster)

    def serving_host(self) -> str:
        """Address of this machine at which every worker reaches what the driver serves."""
        return driver_address()


def model_of(context: RunContext, node: Node, role: Role) -> ModelSource:
    """The captioner or the filter: the one that this round has trained, else the given one."""
    trained = node.trained_model(role)
    if trained is not None:
        address = context.store.address(model_folder(trained))
        digest = context.fingerprints.of(trained)
        return ModelSource(checkpoint=address, digest=digest, run_dir=context.store)
    section = getattr(context.config, role)
    tokenizer = absolute_address(section.tokenizer) if section.tokenizer is not None else None
    return ModelSource(
        checkpoint=absolute_address(section.checkpoint),
        tokenizer=tokenizer,
        digest=context.fingerprints.checkpoint(role)[:16],
        run_dir=context.store,
    )
