"""The node that finetunes a model for a downstream task, on Ray Train as all trainings are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.tasks import NEGATIVES
from capfilt.pipeline.node import Node, NodeKind, NodeResult
from capfilt.pipeline.nodes.train import (
    count_steps,
    outputs_of,
    relative_address,
    train_model,
    with_resolved_starts,
)
from capfilt.pipeline.rundir.start_weights import resolve_address
from capfilt.pipeline.tasks.inputs import check_task_models, require_task_record
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.storage.layout import model_folder
from capfilt.stages.storage.store import encode_json, sha256

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints
    from capfilt.pipeline.tasks.inputs import SplitRecord
    from capfilt.pipeline.training.spec import TaskSpec


def start_inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    """What identifies the checkpoint that a task starts from; nothing for a model of the run, whose node the
    task needs."""
    role = f"tasks.{node.task}"
    if fingerprints.config.tasks[node.task].checkpoint is None:
        return {}
    checkpoints: dict[str, Any] = {role: fingerprints.checkpoint(role)}
    if (words := fingerprints.tokenizer(role)) is not None:
        checkpoints[f"{role}_tokenizer"] = words
    return {"checkpoints": checkpoints}


def start_address(context: RunContext, node: Node) -> str:
    """Address of the checkpoint that a task starts from."""
    given = context.config.tasks[node.task].checkpoint
    if given is not None:
        return resolve_address(given)
    return context.store.address(model_folder(f"pretrain.{node.round}"))


def start_tokenizer(config: Config, task: str) -> str:
    """Address of the tokenizer that the config gives for the start; "" for none."""
    given = config.tasks[task].tokenizer
    return "" if given is None else resolve_address(given)


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    finetune = fingerprints.config.tasks[node.task].finetune
    assert finetune is not None, "the node is planned, so its section is there"
    negatives = fingerprints.config.tasks[node.task].negatives
    return {
        "seed": fingerprints.config.run.seed,
        "finetune": fingerprints.training(finetune),
        **({} if negatives is None else {"negatives": negatives}),
        **start_inputs(fingerprints, node),
    }


def run_finetune(context: RunContext, node: Node) -> NodeResult:
    """Finetune the model of a task and write its checkpoint to `models/<node>/`."""
    from capfilt.pipeline.tasks.build import build_task_learner

    train = require_task_record(context.store, node.task).splits["train"]
    spec = _task_spec(context, node, train)
    content = sha256(encode_json([file.sha256 for file in train.files]))
    train_model(context, spec, content, partial(build_task_learner, spec))
    return NodeResult(
        f"{train.usable:,} samples, {spec.total_steps:,} steps of {spec.train.batch_size}",
        (model_folder(node.name),),
        {"samples": train.usable, "steps": spec.total_steps},
    )


def _task_spec(context: RunContext, node: Node, train: SplitRecord) -> TaskSpec:
    from capfilt.pipeline.training.spec import TaskSpec

    config, task = context.config, context.config.tasks[node.task]
    assert task.finetune is not None, "the node is planned, so its section is there"
    per_epoch, steps = count_steps(task.finetune, train.usable)
    start = start_address(context, node)
    return TaskSpec(
        node=node.name,
        kind="task",
        task=node.task,
        task_kind=task.kind,
        negatives=task.negatives or NEGATIVES,
        run_dir=context.store,
        train=task.finetune,
        model=with_resolved_starts(config.model),
        start=start,
        tokenizer=start_tokenizer(config, node.task),
        shards=tuple(ShardRef(f"{node.task}/train", i, "human") for i in range(len(train.files))),
        round=node.round,
        seed=config.run.seed * 1000 + node.round,
        total_steps=steps,
        steps_per_epoch=per_epoch,
        provenance={
            "fingerprint": context.fingerprints.of(node.name),
            "samples": train.usable,
            "start": relative_address(context.store, start),
        },
    )


FINETUNE = NodeKind(
    "finetune",
    outputs=outputs_of,
    inputs=_inputs,
    run=run_finetune,
    check_inputs=partial(check_task_models, finetuned=True),
    trains="task",
)
"""The finetuning for a downstream task."""
