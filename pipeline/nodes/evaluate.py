"""The node that evaluates the pretrained models of a run on its test sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from capfilt.pipeline.node import Node, NodeKind, NodeResult
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.storage.layout import corpus_folder, model_folder

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints


def _outputs(node: Node) -> list[str]:
    return []


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    evaluate = fingerprints.config_data["evaluate"]
    caption = {k: v for k, v in evaluate["caption"].items() if k != "batch_size"}
    inputs = {"seed": fingerprints.config.run.seed, "evaluate": evaluate | {"caption": caption}}
    controls = fingerprints.config.controls if node.round == 1 else ()
    return inputs | ({"controls": list(controls)} if controls else {})


def run_evaluate(context: RunContext, node: Node) -> NodeResult:
    """Evaluate retrieval and captioning of the pretrained models that the node needs."""
    results, seconds = evaluate_models(context, node)
    summary = "  ".join(
        f"{name}: ITC TR@1 {r['retrieval']['itc_tr@1']:.1f} IR@1 {r['retrieval']['itc_ir@1']:.1f}"
        for name, r in results.items()
    )
    return NodeResult(summary, counts={"stage_seconds": seconds}, results=results)


def evaluate_models(context: RunContext, node: Node) -> tuple[dict[str, dict[str, Any]], dict[str, float]]:
    """Evaluate the models that the node needs, side by side where the cluster has room.

    Returns:
        {model: {"retrieval": …, "caption": …}}, and {model: seconds} without the loading of the model.
    """
    from capfilt.cluster.remote import map_remote, resources_of_call
    from capfilt.pipeline.console.logs import with_worker_logging
    from capfilt.pipeline.evaluation.pretrained import EvaluationTask, evaluate_timed

    config = context.config
    names = [need for need in node.needs if context.run_dir.nodes[need].kind.trains]
    shards = tuple(
        ShardRef(source, shard, "human")
        for source in config.of_kind("test")
        for shard in context.ledger.committed_shards(corpus_folder(source))
    )
    context.progress.describe(node.name, partial(describe_models, names))
    status = context.board.for_node(node.name)
    tasks = [
        EvaluationTask(
            model=name,
            store=context.store,
            shards=shards,
            config=config.evaluate,
            seed=config.run.seed,
            status=status,
        )
        for name in names
    ]
    sizing = context.sizing()
    addresses = {name: context.store.address(model_folder(name)) for name in names}
    models = {f"model {n}": ModelSource(checkpoint=a, run_dir=context.store) for n, a in addresses.items()}
    context.check_device(models, sizing)
    work = with_worker_logging(evaluate_timed, node=node.name)
    results = map_remote(work, tasks, **resources_of_call(sizing, len(tasks)))
    found = dict(zip(names, results, strict=True))
    seconds = {name: round(spent, 3) for name, (_, spent) in found.items()}
    return {name: result for name, (result, _) in found.items()}, seconds


def describe_models(names: Sequence[str], board: Mapping[str, Any]) -> str:
    """What the evaluation of each model is doing, in one line.

    Args:
        board: what the workers have posted, {model: line}.
    """
    return ", ".join(f"{name} {board.get(name, 'waiting for a worker')}" for name in names)


EVALUATE = NodeKind("evaluate", outputs=_outputs, inputs=_inputs, run=run_evaluate, measures_on=("test",))
