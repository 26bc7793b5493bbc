"""The node that calibrates the filter of a round: an estimate of the noise, and a suggested threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.evaluation.calibration.result import Calibration
from capfilt.pipeline.node import Node, NodeKind, NodeResult
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig
from capfilt.stages.storage.layout import corpus_folder

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints


def _outputs(node: Node) -> list[str]:
    return []


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    data = fingerprints.config_data["filter"]
    judge = {k: v for k, v in data["judge"].items() if k not in ("batch_size", "threshold", "language")}
    given: dict[str, str | None] = {}
    if not node.trained_models("filter"):
        given = {"filter": fingerprints.checkpoint("filter"), "tokenizer": fingerprints.tokenizer("filter")}
    combined: dict[str, Any] = {"shared_finetune": True} if fingerprints.config.shared_finetune else {}
    combined |= {"filter_ensemble": data["ensemble"]} if data["ensemble"] > 1 else {}
    return combined | {
        "calibrate": data["calibrate"],
        "judge": judge,
        "checkpoints": given,
        "duplicates": fingerprints.config_data["duplicates"],
    }


def run_calibrate(context: RunContext, node: Node) -> NodeResult:
    """Score a sample of the web texts with their own and with other images, and with a word replaced."""
    from capfilt.cluster.remote import map_remote, resources_of_call
    from capfilt.pipeline.console.logs import with_worker_logging
    from capfilt.pipeline.evaluation.calibration.swapped import FEWEST_PAIRS, CalibrationTask, calibrate_timed
    from capfilt.pipeline.nodes.context import model_of
    from capfilt.pipeline.nodes.duplicates import ensure_counted

    config = context.config
    drops_copies = config.duplicates.policy == "drop"
    if drops_copies:
        context.progress.describe(node.name, "counting the copies of images")
        ensure_counted(context.run_dir)
    task = CalibrationTask(
        model=model_of(context, node, "filter"),
        judge=config.filter.judge,
        pairs=PairsConfig(run_dir=context.store, without_surplus=drops_copies),
        hold_out=config.held_out_for(node.round),
        shards=tuple(
            ShardRef(source, shard, "web")
            for source in node.sources
            for shard in context.ledger.committed_shards(corpus_folder(source))
        ),
        size=config.filter.calibrate.pairs,
        status=context.board.for_node(node.name),
    )
    context.progress.describe(node.name, f"scoring up to {task.size:,} texts with other images")
    sizing = context.sizing()
    context.check_device({"filter": task.model}, sizing)
    work = with_worker_logging(calibrate_timed, node=node.name)
    ((found, texts, seconds),) = map_remote(work, [task], **resources_of_call(sizing, 1))
    if found is None:
        if config.filter.judge.is_automatic:
            raise NodeFailed(
                f"{node.name}: fewer than {FEWEST_PAIRS} web texts to calibrate the filter with; raise "
                "pretrain.hold_out, or set filter.judge.threshold to a number"
            )
        return NodeResult(f"fewer than {FEWEST_PAIRS} web texts: no estimate")
    counts = {"texts": texts, "stage_seconds": {"score": round(seconds, 3)}}
    return NodeResult(describe_calibration(found), counts=counts, calibration=found)


def describe_calibration(found: Calibration) -> str:
    """One line: the estimates, their intervals and the suggested threshold."""
    noise = ", ".join(
        f"{share.noise:.3f} {kind} ({share.low:.3f} to {share.high:.3f})" for kind, share in found.shares
    )
    return f"web texts: {noise}, suggested threshold {found.threshold:g}"


CALIBRATE = NodeKind("calibrate", outputs=_outputs, inputs=_inputs, run=run_calibrate)
