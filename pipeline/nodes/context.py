"""What a running node works with."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.config import ClusterError
from capfilt.cluster.nodes import driver_address
from capfilt.cluster.session import is_embedded
from capfilt.cluster.sizing import ModelLoad, Sizing, divide_cluster
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.console.signals import StopSignal
from capfilt.pipeline.metrics.run_metrics import RunMetrics
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.contents.totals import caption_share
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.bootstrap.model_source import ModelSource, Role
from capfilt.stages.storage.artifacts import absolute_address, measure_artifact
from capfilt.stages.storage.layout import model_folder
from capfilt.stages.storage.store import Store

CAPTIONER_AND_FILTER: tuple[Role, ...] = ("captioner", "filter")
LARGE_MODEL_BYTES = 200e6
"""Size of a checkpoint from which on its model is not put on the CPUs of a cluster: BLIP base has 900 MB."""


@dataclass(frozen=True)
class RunContext:
    """A run in progress, on the driver."""

    run_dir: RunDir
    progress: Progress
    board: StatusBoard
    stop: StopSignal
    metrics: RunMetrics = field(default_factory=RunMetrics)
    """By default not exported."""
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

    def sizing(self, work: str | None = None, shards: int | None = None) -> Sizing:
        """How the machines that the cluster has now are divided among the stages.

        Args:
            work: the node, or other work on shards, that they are divided for.
            shards: of that work, also those that are done.
        """
        node = self.run_dir.nodes.get(work) if work is not None else None
        captions = node is not None and node.kind.judges and self.config.captions_itself
        load = self.model_load(node) if node and captions else None
        return divide_cluster(self.config.cluster, load, shards)

    def model_load(self, node: Node) -> ModelLoad:
        """How large the captioner and the filter of a bootstrap are, and how their work compares."""
        sizes: list[int | None] = []
        for role in CAPTIONER_AND_FILTER:
            sizes += [_size_of(member, role) for member in model_of(self, node, role).members]
        known = [size for size in sizes if size is not None]
        return ModelLoad(
            weights=sum(known) if len(known) == len(sizes) else None,
            caption_share=caption_share(self.ledger, node.sources, node.round),
        )

    def await_resources(self, node: str) -> None:
        """Wait until the cluster has what `cluster.wait_for` asks for.

        Raises:
            ClusterError: it has less when the time is over.
        """
        from capfilt.cluster.waiting import wait_for_resources

        describe = partial(self.progress.describe, node)
        wait_for_resources(self.config.cluster, describe, lambda: self.stop.requested)

    def check_device(self, models: Mapping[str, ModelSource | int], sizing: Sizing) -> None:
        """Check that no large model would run on CPUs, unless that is meant (`cluster.allow_cpu`).

        Args:
            models: role → model, or the bytes that its weights take.

        Raises:
            ClusterError: one would.
        """
        cluster = self.config.cluster
        allowed = is_embedded(cluster) if cluster.allow_cpu is None else cluster.allow_cpu
        if sizing.gpus or allowed:
            return
        for role, model in models.items():
            size = model if isinstance(model, int) else _size_of(model, role)
            if size is None or size > LARGE_MODEL_BYTES:
                about = "a model of the hub" if size is None else f"{size / 1e6:,.0f} MB"
                raise ClusterError(
                    f"the cluster has {sizing.cpus:g} CPUs and no GPU, and the {role} ({about}) would run on "
                    "CPUs; start GPU machines (cluster.wait_for waits for them) or set cluster.allow_cpu=true"
                )

    def serving_host(self) -> str:
        """Address of this machine at which every worker reaches what the driver serves."""
        return driver_address()


def _size_of(model: ModelSource, role: str) -> int | None:
    """Bytes of a checkpoint; None of a model of the hub."""
    return measure_artifact(model.checkpoint, f"{role}.checkpoint", model.run_dir)


def model_of(context: RunContext, node: Node, role: Role) -> ModelSource:
    """The captioner or the filter: what this round has trained, else the given one."""
    trained = [
        ModelSource(
            checkpoint=context.store.address(model_folder(name)),
            digest=context.fingerprints.of(name),
            run_dir=context.store,
        )
        for name in node.trained_models(role)
    ]
    if trained:
        return replace(trained[0], others=tuple(trained[1:]))
    section = getattr(context.config, role)
    tokenizer = absolute_address(section.tokenizer) if section.tokenizer is not None else None
    return ModelSource(
        checkpoint=absolute_address(section.checkpoint),
        tokenizer=tokenizer,
        digest=context.fingerprints.checkpoint(role)[:16],
        run_dir=context.store,
    )
