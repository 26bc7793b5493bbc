"""What each node of the DAG does. A node runs on the driver, in its own thread; the work runs on the cluster."""

from __future__ import annotations

from typing import Any

from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.evaluate import run_evaluate
from capfilt.pipeline.nodes.report import run_report
from capfilt.pipeline.plan import Node


def run_node(run: RunContext, node: Node) -> dict[str, Any]:
    """Do a node's work, or what is left of it.

    Returns:
        {"outputs", "counts", "summary", …} for the node's record.

    Raises:
        NodeFailed: with one line for the user.
    """
    # Imported when their turn comes: a chain of given checkpoints never trains, and its driver needs no torch.
    if node.kind == "fetch":
        from capfilt.pipeline.nodes.fetch import run_fetch

        return run_fetch(run, node)
    if node.kind == "bootstrap":
        from capfilt.pipeline.nodes.bootstrap import run_bootstrap

        return run_bootstrap(run, node)
    if node.kind == "evaluate":
        return run_evaluate(run, node)
    if node.kind == "report":
        return run_report(run, node)
    from capfilt.pipeline.nodes.train import run_training

    return run_training(run, node)
