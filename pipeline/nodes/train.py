"""The nodes that train on Ray Train: pretraining, its controls, and the two finetunings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.sections import ModelSection
from capfilt.pipeline.config.training import TrainSection
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.node import Node, NodeKind, NodeResult, ValidationResult
from capfilt.pipeline.nodes.training_data import (
    VERDICTS,
    TrainingShards,
    candidates_round,
    hold_out,
    reads_web_beside,
    skips_surplus,
    sources_of,
    texts_of,
    training_shards,
    validation_of,
)
from capfilt.pipeline.rundir.ledger import fingerprint
from capfilt.pipeline.rundir.start_weights import check_start_weights, resolve_address
from capfilt.pipeline.rundir.verdict_sets import verdict_inputs, verdicts_of
from capfilt.pipeline.training.seeds import derive_seed
from capfilt.stages.pairs.texts import TextsConfig
from capfilt.stages.storage.layout import (
    VOCABULARY,
    log_folder,
    model_folder,
    provenance_file,
    training_folder,
)
from capfilt.stages.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from capfilt.cluster.training.trainer import Learner, TrainJob, Worker
    from capfilt.pipeline.config.training import FinetuneSection
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints
    from capfilt.pipeline.training.spec import LearnerSpec


def outputs_of(node: Node) -> list[str]:
    """Folders that a training writes."""
    return [model_folder(node.name), training_folder(node.name), log_folder(node.name)]


def _pretrain_inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    config, data = fingerprints.config, fingerprints.config_data
    assert config.pretrain is not None, "pretrain is planned, so its section is there"
    # Later rounds train on verdicts, which depend on the settings for duplicates through the bootstrap node.
    own = {"duplicates": data["duplicates"]} if node.round == 0 else {}
    own |= _texts_inputs(config, node) | verdict_inputs(config, node)
    return own | {
        "seed": config.run.seed,
        "model": data["model"] | fingerprints.start_weights(),
        "pretrain": fingerprints.training(config.pretrain),
        "sources": {name: {"parts": config.sources[name].parts} for name in config.trains_on("pretrain")},
        "continue_training": config.continue_training and node.round > 0,
    }


def _texts_inputs(config: Config, node: Node) -> dict[str, Any]:
    """What determines which texts a pretraining sees, apart from the verdicts. Only what differs from the
    defaults, and the weights by their former name, as in runs of versions that had no other keys."""
    texts, default = texts_of(config, node), TextsConfig()
    own: dict[str, Any] = {"mixing": texts.weights} if texts.weights != default.weights else {}
    chosen = {name: getattr(texts, name) for name in ("per_image", "sentences")}
    chosen = {name: value for name, value in chosen.items() if value != getattr(default, name)}
    return own | ({"texts": chosen} if chosen else {})


def _control_inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    inputs = _pretrain_inputs(fingerprints, node)
    parts = {name: inputs["sources"][name] for name in sources_of(fingerprints.config, node)}
    return inputs | {"control": node.kind.name, "sources": parts, "continue_training": False}


def _finetune_inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    kind, config = node.kind.name, fingerprints.config
    section: dict[str, Any] = {"finetune": fingerprints.training(config.training(kind))}
    inputs = {"seed": config.run.seed, kind: section}
    if node.member > 1:
        inputs["member"] = node.member
    if reads_web_beside(config, node):
        section["web_share"] = config.captioner.web_share
        section |= {"hold_out": share} if (share := hold_out(config, node)) else {}
        inputs["duplicates"] = fingerprints.config_data["duplicates"]
    return inputs


def _check_starts(config: Config, run_dir: Store) -> None:
    check_start_weights(config, run_dir, {PRETRAIN.name})


def run_training(context: RunContext, node: Node) -> NodeResult:
    """Pretrain or finetune a model and write its checkpoint to `models/<node>/`."""
    from capfilt.pipeline.nodes.duplicates import ensure_counted

    train = context.config.training(node.kind.trains)
    if skips_surplus(context.config, node):
        context.progress.describe(node.name, "counting the copies of images")
        ensure_counted(context.run_dir)
    context.progress.describe(node.name, "reading the records of the training pairs")
    shards = training_shards(context, node)
    if shards.pairs < 2:
        raise NodeFailed(f"{node.name}: {shards.pairs} training pairs; a training needs at least 2")
    from capfilt.pipeline.training.build import build_learner

    spec = _learner_spec(context, node, train, shards)
    train_model(context, spec, shards.digest, partial(build_learner, spec))
    return describe_training(context.store, node, shards.pairs, train.batch_size)


def describe_training(store: Store, node: Node, pairs: int, batch_size: int) -> NodeResult:
    """What a training has done, by the provenance of its model."""
    provenance: Any = store.read_json(provenance_file(node.name))
    steps, summary = provenance["steps"], f"{pairs:,} pairs, {provenance['steps']:,} steps of {batch_size}"
    validation = None
    if "validation" in provenance:
        validation = ValidationResult(**provenance["validation"])
        least = validation.losses[validation.steps.index(validation.best_step)]
        summary += f", kept step {validation.best_step:,} (validation loss {least:.4g})"
    counts = {"pairs": pairs, "steps": steps}
    return NodeResult(summary, (model_folder(node.name),), counts, validation=validation)


def train_model(
    context: RunContext, spec: LearnerSpec, content: str, build: Callable[[Worker], Learner]
) -> None:
    """Train the model of a node, or what is left of it, and write its checkpoint to `models/<node>/`.

    Args:
        content: digest of the data; a half-done training resumes only with the same.
        build: makes the learner on a worker; picklable.

    Raises:
        NodeFailed: the training cannot go on.
    """
    from capfilt.cluster.training.trainer import TrainingStopped, fit

    node, store = spec.node, context.store
    context.progress.set_total(node, spec.total_steps, unit="steps")
    context.progress.describe(node, "starting the workers")
    try:
        fit(_training_job(context, spec, content, build))
    except TrainingStopped as stopped:
        raise NodeFailed(str(stopped)) from stopped
    if not store.exists(provenance_file(node)):
        raise NodeFailed(f"{node}: training ended without a checkpoint in {model_folder(node)}")
    store.remove(training_folder(node))


def count_steps(train: FinetuneSection, pairs_per_epoch: float) -> tuple[int, int]:
    """(steps per epoch, all steps) of a training."""
    per_epoch = max(1, round(pairs_per_epoch) // train.batch_size)
    steps = train.steps if train.steps is not None else max(1, round((train.epochs or 1) * per_epoch))
    return per_epoch, steps


def _learner_spec(
    context: RunContext, node: Node, train: TrainSection, shards: TrainingShards
) -> LearnerSpec:
    from capfilt.pipeline.training.spec import LearnerSpec
    from capfilt.pipeline.training.vocabulary import ensure_tokenizer

    config = context.config
    # Epochs differ in size where a source trains in parts. Schedules and `epochs` use the average epoch,
    # which is exact over each full cycle of the parts.
    per_epoch, steps = count_steps(train, shards.pairs_per_epoch)
    start = _start_of(context, node)
    with context.vocabulary_lock:
        tokenizer = ensure_tokenizer(context.run_dir) if start is None else ""
    return LearnerSpec(
        node=node.name,
        kind=node.kind.trains,  # type: ignore[arg-type]
        run_dir=context.store,
        train=train,
        model=with_resolved_starts(config.model),
        start=start,
        tokenizer=tokenizer,
        shards=tuple(shards.refs),
        round=candidates_round(node),
        verdicts=VERDICTS.get(node.kind.name, "kept"),
        verdict_set=verdicts_of(config, node),
        min_itc=shards.min_itc,
        weights=shards.weights,
        per_image=texts_of(config, node).per_image,
        sentences=texts_of(config, node).sentences,
        without_surplus=skips_surplus(context.config, node),
        hold_out=hold_out(context.config, node),
        validation=validation_of(context.config, node),
        seed=_training_seed(config.run.seed * 1000 + node.round, node.member),
        total_steps=steps,
        steps_per_epoch=per_epoch,
        provenance={
            "fingerprint": context.fingerprints.of(node.name),
            "pairs": shards.pairs,
            "start": relative_address(context.store, start),
        },
    )


def _training_seed(seed: int, member: int) -> int:
    """Seed of a training: `seed` for the first model of an ensemble, another one for each further model."""
    return seed if member == 1 else derive_seed(seed, "member", member)


def _training_job(
    context: RunContext, spec: LearnerSpec, content: str, build: Callable[[Worker], Learner]
) -> TrainJob:
    from capfilt.cluster.training.trainer import TrainJob
    from capfilt.pipeline.console.logs import with_worker_logging

    store, workers = context.store, spec.train.workers
    gpus = workers.gpus_per_worker
    # The name identifies the data, so that a half-done training never resumes on shards that `capfilt retry`
    # changed.
    began_with = {"node": context.fingerprints.of(spec.node), "content": content}
    return TrainJob(
        node=spec.node,
        name=f"{spec.node}-{fingerprint(began_with)}",
        storage_path=store.path(training_folder(spec.node)),
        storage_filesystem=None if store.is_local else _arrow_filesystem(store),
        workers=workers,
        gpus_per_worker=gpus if gpus is not None else float(min(1.0, context.sizing().gpus)),
        build=with_worker_logging(build, node=spec.node),
        board=context.board,
    )


def with_resolved_starts(model: ModelSection) -> ModelSection:
    """The section with addresses that every process resolves to the same files."""
    starts = {name: getattr(model, name) for name in ("vision_start", "text_start")}
    return model.model_copy(
        update={name: a if a is None else resolve_address(a) for name, a in starts.items()}
    )


def relative_address(store: Store, address: str | None) -> str | None:
    """The address of a checkpoint as the provenance records it: relative if the checkpoint is in the run
    directory, so that the directory can be moved."""
    return None if address is None else address.removeprefix(store.address(""))


def _start_of(context: RunContext, node: Node) -> str | None:
    """The checkpoint that a training starts from, None if it starts from new weights."""
    previous = f"pretrain.{node.round - 1}"
    continues = context.config.continue_training and previous in context.run_dir.nodes
    if node.kind.trains != "pretrain" or (continues and node.kind is PRETRAIN):
        return context.store.address(model_folder(previous))
    return None


def _arrow_filesystem(store: Store) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(store.fs))


PRETRAIN = NodeKind(
    "pretrain",
    outputs=outputs_of,
    inputs=_pretrain_inputs,
    run=run_training,
    check_inputs=_check_starts,
    shared_outputs=(VOCABULARY,),
    trains="pretrain",
)
CAPTIONER = NodeKind(
    "captioner", outputs=outputs_of, inputs=_finetune_inputs, run=run_training, trains="captioner"
)
FILTER = NodeKind("filter", outputs=outputs_of, inputs=_finetune_inputs, run=run_training, trains="filter")
SHARED = NodeKind("shared", outputs=outputs_of, inputs=_finetune_inputs, run=run_training, trains="shared")
"""Captioner and filter in one (paper, Table 4)."""


def _control(name: str) -> NodeKind:
    return NodeKind(
        name,
        outputs=outputs_of,
        inputs=_control_inputs,
        run=run_training,
        check_inputs=_check_starts,
        trains="pretrain",
    )


CONTROLS = {
    name: _control(name)
    for name in ("human_only", "filter_only", "captioner_only", "web_repeated", "itc_top")
}
"""Pretrainings to compare with, on other texts than the method's (paper, Tables 1 and 12)."""
