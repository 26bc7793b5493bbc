"""The node that evaluates a finetuned model on its downstream task, beside the model that it started from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from capfilt.pipeline.config.load import to_json_data
from capfilt.pipeline.node import Node, NodeKind, NodeResult, TaskResult
from capfilt.pipeline.nodes.evaluate import describe_models
from capfilt.pipeline.tasks.figures import combine_figures, compute_chance, compute_figures, result_files
from capfilt.pipeline.tasks.finetune import start_address, start_inputs, start_tokenizer
from capfilt.pipeline.tasks.inputs import check_task_models, require_task_record
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.artifacts import absolute_address, ensure_local
from capfilt.stages.storage.layout import model_folder, results_folder, task_answers
from capfilt.stages.taskdata.labels import name_classes
from capfilt.stages.taskdata.records import TaskDataError, read_json

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints
    from capfilt.pipeline.tasks.predict import PredictJob

GROUPS = 8
"""Parts into which the test shards are divided, each evaluated by a process with a model of its own."""


def _outputs(node: Node) -> list[str]:
    return [results_folder(node.name)]


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    task = fingerprints.config.tasks[node.task]
    evaluate = to_json_data(task.evaluate)
    evaluate["caption"].pop("batch_size")
    if task.kind != "classification":  # so that these keys changed no fingerprint when they came
        evaluate = {name: value for name, value in evaluate.items() if name not in ("classes", "templates")}
    for name, given in (("answers", task.evaluate.answers), ("classes", task.evaluate.classes)):
        if given is not None:
            path = ensure_local(absolute_address(given), f"tasks.{node.task}.evaluate.{name}")
            with open(path, "rb") as stream:
                evaluate[name] = _digest(stream.read())
    size = None if task.finetune is None else task.finetune.image_size
    return {
        "seed": fingerprints.config.run.seed,
        "evaluate": evaluate,
        "image_size": size,
        **start_inputs(fingerprints, node),
    }


def _digest(data: bytes) -> str:
    from capfilt.stages.storage.store import sha256

    return f"sha256 {sha256(data)[:16]}"


def run_evaluate_task(context: RunContext, node: Node) -> NodeResult:
    """Evaluate the start and the finetuned model of a task on its test samples."""
    from capfilt.cluster.remote import map_remote, resources_of_call
    from capfilt.pipeline.console.logs import with_worker_logging
    from capfilt.pipeline.tasks.predict import predict

    kind = context.config.tasks[node.task].kind
    jobs = _jobs(context, node)
    context.progress.describe(node.name, partial(describe_models, list(jobs)))
    flat = [job for of_model in jobs.values() for job in of_model]
    sizing = context.sizing()
    addresses = {name: of_model[0].checkpoint for name, of_model in jobs.items()}
    models = {f"model {n}": ModelSource(checkpoint=a, run_dir=context.store) for n, a in addresses.items()}
    context.check_device(models, sizing)
    work = with_worker_logging(predict, node=node.name)
    found = iter(map_remote(work, flat, **resources_of_call(sizing, len(flat))))
    rows = {name: [row for _ in of_model for row in next(found)] for name, of_model in jobs.items()}
    figures = {name: compute_figures(kind, of_model) for name, of_model in rows.items()}
    start, *finetuned = jobs
    last = finetuned[0] if finetuned else start
    scores = combine_figures(kind, figures[last], figures[start]) if finetuned else dict(figures[start])
    scores |= compute_chance(kind, rows[last], _texts_of_images(context, node))
    for name, content in result_files(kind, rows[last]).items():
        context.store.put(f"{results_folder(node.name)}/{name}", content.encode())
    metric = context.config.tasks[node.task].metric
    samples = require_task_record(context.store, node.task).splits["test"].samples.get(SUCCESS, 0)
    result = TaskResult(name=node.task, kind=kind, metric=metric, start=start, samples=samples, scores=scores)
    shown = ", ".join(f"{name} {scores[name]:.1f}" for name in (metric, "start", "chance") if name in scores)
    return NodeResult(shown or "no sample has an answer to compare with", tuple(node.outputs), task=result)


def _jobs(context: RunContext, node: Node) -> dict[str, list[PredictJob]]:
    """{model: its jobs}, the start first."""
    from capfilt.pipeline.tasks.predict import PredictJob

    config, task = context.config, context.config.tasks[node.task]
    record = require_task_record(context.store, node.task)
    start = task.checkpoint or f"pretrain.{node.round}"
    models = {start: (start_address(context, node), start_tokenizer(config, node.task))}
    finetuned = next((need for need in node.needs if need.startswith("finetune.")), None)
    if finetuned is not None:
        models[finetuned] = (context.store.address(model_folder(finetuned)), "")
    shards = range(len(record.splits["test"].files))
    whole = task.kind in ("retrieval", "caption", "video_retrieval")  # metrics of all images together
    groups = 1 if whole else max(1, min(GROUPS, len(shards)))
    size = task.evaluate.caption.image_size or (task.finetune.image_size if task.finetune else None)
    answers = tuple(_answers(context, node)) if task.ranks_answers else ()
    classes = _classes(context, node) if task.kind == "classification" else {}
    return {
        name: [
            PredictJob(
                label=name,
                key=f"tasks.{node.task}.checkpoint",
                run_dir=context.store,
                task=node.task,
                kind=task.kind,
                checkpoint=address,
                tokenizer=words,
                image_size=size,
                frames=task.frames_per_video,
                shards=tuple(shards[group::groups]) if not whole else tuple(shards),
                k=task.k,
                answers=answers,
                classes=tuple(classes.items()),
                templates=task.evaluate.templates,
                caption=task.evaluate.caption,
                seed=config.run.seed,
                status=context.board.for_node(node.name),
            )
            for group in range(groups)
        ]
        for name, (address, words) in models.items()
    }


def _answers(context: RunContext, node: Node) -> list[str]:
    """The answers that are ranked.

    Raises:
        TaskDataError: there are none.
    """
    key, given = f"tasks.{node.task}.evaluate.answers", context.config.tasks[node.task].evaluate.answers
    found = context.store.read_json(task_answers(node.task)) if given is None else read_json(given, key)
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise TaskDataError(f"{key}: {given or 'the training'} has no answers; give a JSON list of texts")
    return list(dict.fromkeys(found))


def _classes(context: RunContext, node: Node) -> dict[str, str]:
    """The class of each label."""
    key, given = f"tasks.{node.task}.evaluate.classes", context.config.tasks[node.task].evaluate.classes
    return name_classes(context.store.read_json(task_answers(node.task)), given, key)


def _texts_of_images(context: RunContext, node: Node) -> list[int]:
    """Retrieval: the number of texts of each test image or video."""
    from capfilt.stages.taskdata.rows import ReadTaskRows

    if context.config.tasks[node.task].kind not in ("retrieval", "video_retrieval"):
        return []
    record = require_task_record(context.store, node.task)
    reader, found = ReadTaskRows(context.store), list[int]()
    for shard in range(len(record.splits["test"].files)):
        table = reader.read(f"{node.task}/test", shard)
        found += [len(samples) for samples in table["samples"].to_pylist()]
    return found


EVALUATE_TASK = NodeKind(
    "task",
    outputs=_outputs,
    inputs=_inputs,
    run=run_evaluate_task,
    check_inputs=partial(check_task_models, finetuned=False),
)
"""The evaluation of a downstream task."""
