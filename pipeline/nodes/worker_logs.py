"""Logging of the worker processes of a node."""

from __future__ import annotations

from dataclasses import replace

from capfilt.cluster.chain.engine import Step
from capfilt.pipeline.console.logs import shard_log_context, with_worker_logging


def with_step_logging(step: Step, node: str) -> Step:
    """The step with logging configured in its workers; records name the run, the node and the shard."""
    rowwise = None if step.rowwise is None else with_worker_logging(step.rowwise, node=node)
    make = with_worker_logging(step.make, node=node)
    return replace(step, make=make, rowwise=rowwise, log_context=shard_log_context)
