"""NEW FILE."""

from __future__ import annotations

from typing import Any

from capfilt.cluster.board import NodeStatus
from capfilt.cluster.chain.engine import call_all
from capfilt.cluster.sizing import Sizing
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.evaluation.pretrained import EvaluationTask, evaluate
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.plan import Node
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.storage.store import Store


def run_evaluate(run: RunContext, node: Node) -> dict[str, Any]:
    """Retrieval and captioning of the pretrained MEDs on the test sources."""

    names = [need for need in node.needs if need.startswith("pretrain.")]
    results = evaluate_models(run.config, run.store, run.ledger, names, run.sizing(), run.board.of(node.name))
    summary = "  ".join(
        f"{name}: ITC TR@1 {r['retrieval']['itc_tr@1']:.1f} IR@1 {r['retrieval']['itc_ir@1']:.1f}"
        for name, r in results.items()
    )
    return {"outputs": [], "results": results, "counts": {}, "summary": summary}


def evaluate_models(
    config: Config,
    run: Store,
    ledger: Ledger,
    names: list[str],
    sizing: Sizing,
    reports: NodeStatus | None = None,
) -> dict[str, dict[str, Any]]:
    """{model: {"retrieval": …, "caption": …}} for the models of these nodes, side by side where there is room."""
    shards = [
        ShardRef(source, shard, "human")
        for source in config.of_kind("test")
        for shard in ledger.committed(f"corpus/{source}")
    ]
    tests = [
        EvaluationTask(name, run, tuple(shards), config.evaluate, config.run.seed, reports) for name in names
    ]
    gpus = min(1.0, sizing.gpus)
    return dict(zip(names, call_all(evaluate, tests, cpus=1.0, gpus=gpus), strict=True))
