"""What each node of the DAG does. A node runs on the driver, in its own thread; the work runs on the cluster."""

from __future__ import annotations

from typing import Any

from capfilt.pipeline.nodes.context import Run
from capfilt.pipeline.plan import Node, outputs_of


def run_node(run: Run, node: Node) -> dict[str, Any]:
    """Do a node's work, or what is left of it.

    Returns:
        {"outputs", "counts", "summary", …} for the node's record.

    Raises:
        NodeFailed: with one line for the user.
    """
    # Imported when their turn comes: a chain of given checkpoints never trains, and its driver needs no torch.
    if node.kind == "fetch":
        from capfilt.pipeline.nodes.shards import run_fetch

        return run_fetch(run, node)
    if node.kind == "bootstrap":
        from capfilt.pipeline.nodes.shards import run_bootstrap

        return run_bootstrap(run, node)
    if node.kind == "evaluate":
        return run_evaluate(run, node)
    if node.kind == "report":
        return run_report(run, node)
    from capfilt.pipeline.nodes.train import run_training

    return run_training(run, node)


def run_evaluate(run: Run, node: Node) -> dict[str, Any]:
    """Retrieval and captioning of the pretrained MEDs on the test sources."""
    from capfilt.pipeline.evaluation.pretrained import evaluate_models

    names = [need for need in node.needs if need.startswith("pretrain.")]
    results = evaluate_models(run.config, run.store, run.ledger, names, run.sizing(), run.board.of(node.name))
    summary = "  ".join(
        f"{name}: ITC TR@1 {r['retrieval']['itc_tr@1']:.1f} IR@1 {r['retrieval']['itc_ir@1']:.1f}"
        for name, r in results.items()
    )
    return {"outputs": [], "results": results, "counts": {}, "summary": summary}


def run_report(run: Run, node: Node) -> dict[str, Any]:
    """Noise ratios, metrics and the page."""
    from capfilt.pipeline.nodes.report import write_report

    metrics = write_report(run.config, run.store, run.ledger, run.nodes, node.round)
    ratios = ", ".join(f"{origin} {value:.3f}" for origin, value in metrics["noise_ratio"].items())
    return {"outputs": outputs_of(node), "counts": {}, "summary": f"noise ratio {ratios}"}
