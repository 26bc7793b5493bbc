"""A run directory and all that is known about it, as one object for commands and nodes.

`pipeline.prepare.open_run` and `hold_run` make it; neither Ray nor torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.evaluation.calibration.result import Calibration
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.lease import Lease
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.bootstrap.filter import FilterConfig
from capfilt.stages.storage.store import Store


@dataclass(frozen=True)
class RunDir:
    """A run directory, the config it is used with, and the nodes of that config."""

    config: Config
    store: Store
    ledger: Ledger
    nodes: dict[str, Node]
    """The whole DAG; every node comes after those that it needs."""
    fingerprints: Fingerprints
    held: Lease | None = None
    """The right to write, None if the directory was opened for reading."""

    @property
    def lease(self) -> Lease:
        """The right to write.

        Raises:
            AssertionError: the directory was opened for reading.
        """
        assert self.held is not None, "the run directory was opened for reading"
        return self.held

    def source_kind(self, source: str) -> str:
        """The kind of a source: human, web or test."""
        return self.config.sources[source].kind

    def calibration(self, round_: int) -> Calibration | None:
        """What the calibration of a round's filter has found; None if there is none, or not yet."""
        name = f"calibrate.{round_}"
        record = self.ledger.node(name) if name in self.nodes else None
        return None if record is None else record.calibration or None

    def judge_settings(self, round_: int) -> FilterConfig:
        """How a round judges candidates, with a number for every threshold. If a threshold is automatic, the
        round must have been calibrated."""
        found = self.calibration(round_) if self.config.filter.judge.is_automatic else None
        return self.config.filter.judge.resolve(None if found is None else found.threshold)
