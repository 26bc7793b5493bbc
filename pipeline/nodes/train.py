"""The nodes that train on Ray Train: pretraining, its controls, and the two finetunings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.sections import ModelSection, TrainSection
from capfilt.pipeline.config.start_weights import check_start_weights, resolve_address
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.node import Node, NodeKind, NodeResult
from capfilt.pipeline.rundir.ledger import fingerprint
from capfilt.pipeline.rundir.verdict_sets import verdict_inputs, verdicts_of, with_verdicts
from capfilt.stages.pairs.parts import ShardRef, assign_parts
from capfilt.stages.pairs.read import Verdicts
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord
from capfilt.stages.storage.layout import (
    DEFAULT_VERDICTS,
    VOCABULARY,
    candidates_folder,
    corpus_folder,
    log_folder,
    model_folder,
    provenance_file,
    training_folder,
)
from capfilt.stages.storage.store import Store, encode_json

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints
    from capfilt.pipeline.training.spec import LearnerSpec


@dataclass(frozen=True)
class TrainingShards:
    """The shards that a training reads."""

    refs: list[ShardRef]
    pairs: int
    """Pairs in all shards, by the commit records. Held-out images count by their share."""
    pairs_per_epoch: float
    """Pairs of an average epoch: of a source that trains in n parts, an epoch reads one n-th."""
    digest: str
    """Digest of the content of the shards."""


def _outputs(node: Node) -> list[str]:
    return [model_folder(node.name), training_folder(node.name), log_folder(node.name)]


def _pretrain_inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    config, data = fingerprints.config, fingerprints.config_data
    assert config.pretrain is not None, "pretrain is planned, so its section is there"
    # Later rounds train on verdicts, which depend on the settings for duplicates through the bootstrap node.
    unfiltered = {"duplicates": data["duplicates"]} if node.round == 0 else {}
    return (
        unfiltered
        | verdict_inputs(config, node)
        | {
            "seed": config.run.seed,
            "model": data["model"] | fingerprints.start_weights(),
            "pretrain": fingerprints.training(config.pretrain),
            "sources": {name: {"parts": config.sources[name].parts} for name in config.trains_on("pretrain")},
            "continue_training": config.continue_training and node.round > 0,
        }
    )


def _control_inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    inputs = _pretrain_inputs(fingerprints, node)
    parts = {name: inputs["sources"][name] for name in sources_of(fingerprints.config, node)}
    return inputs | {"control": node.kind.name, "sources": parts, "continue_training": False}


def _finetune_inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    kind = node.kind.name
    finetune = fingerprints.training(fingerprints.config.trainings()[kind])
    return {"seed": fingerprints.config.run.seed, kind: {"finetune": finetune}}


def _check_starts(config: Config, run_dir: Store) -> None:
    check_start_weights(config, run_dir, {PRETRAIN.name})


def run_training(context: RunContext, node: Node) -> NodeResult:
    """Pretrain or finetune a model and write its checkpoint to `models/<node>/`."""
    from capfilt.cluster.training.trainer import TrainingStopped, fit
    from capfilt.pipeline.nodes.duplicates import ensure_counted

    store = context.store
    train = context.config.trainings()[node.kind.trains]
    if _skips_surplus(context, node):
        context.progress.describe(node.name, "counting the copies of images")
        ensure_counted(context.run_dir)
    context.progress.describe(node.name, "reading the records of the training pairs")
    shards = training_shards(context, node)
    if shards.pairs < 2:
        raise NodeFailed(f"{node.name}: {shards.pairs} training pairs; a training needs at least 2")
    spec = _learner_spec(context, node, train, shards)
    context.progress.set_total(node.name, spec.total_steps, unit="steps")
    context.progress.describe(node.name, "starting the workers")
    try:
        fit(_training_job(context, spec, shards))
    except TrainingStopped as stopped:
        raise NodeFailed(str(stopped)) from stopped
    if not store.exists(provenance_file(node.name)):
        raise NodeFailed(f"{node.name}: training ended without a checkpoint in {model_folder(node.name)}")
    store.remove(training_folder(node.name))
    return NodeResult(
        f"{shards.pairs:,} pairs, {spec.total_steps:,} steps of {train.batch_size}",
        (model_folder(node.name),),
        {"pairs": shards.pairs, "steps": spec.total_steps},
    )


def _learner_spec(
    context: RunContext, node: Node, train: TrainSection, shards: TrainingShards
) -> LearnerSpec:
    from capfilt.pipeline.training.spec import LearnerSpec
    from capfilt.pipeline.training.vocabulary import ensure_tokenizer

    config = context.config
    # Epochs differ in size where a source trains in parts. Schedules and `epochs` use the average epoch,
    # which is exact over each full cycle of the parts.
    per_epoch = max(1, round(shards.pairs_per_epoch) // train.batch_size)
    steps = train.steps if train.steps is not None else max(1, round((train.epochs or 1) * per_epoch))
    start = _start_of(context, node)
    with context.vocabulary_lock:
        tokenizer = ensure_tokenizer(context.run_dir) if start is None else ""
    return LearnerSpec(
        node=node.name,
        kind=node.kind.trains,  # type: ignore[arg-type]
        run_dir=context.store,
        train=train,
        model=_with_resolved_starts(config.model),
        start=start,
        tokenizer=tokenizer,
        shards=tuple(shards.refs),
        round=_round_of_candidates(node),
        verdicts=VERDICTS.get(node.kind.name, "kept"),
        verdict_set=verdicts_of(config, node),
        without_surplus=_skips_surplus(context, node),
        hold_out=_hold_out(context, node),
        seed=config.run.seed * 1000 + node.round,
        total_steps=steps,
        steps_per_epoch=per_epoch,
        provenance={
            "fingerprint": context.fingerprints.of(node.name),
            "pairs": shards.pairs,
            "start": _relative_address(context.store, start),
        },
    )


def _training_job(context: RunContext, spec: LearnerSpec, shards: TrainingShards) -> Any:
    from capfilt.cluster.training.trainer import TrainJob
    from capfilt.pipeline.console.logs import with_worker_logging
    from capfilt.pipeline.training.build import build_learner

    store, workers = context.store, spec.train.workers
    gpus = workers.gpus_per_worker
    # The name identifies the data, so that a half-done training never resumes on shards that `capfilt retry`
    # changed.
    began_with = {"node": context.fingerprints.of(spec.node), "content": shards.digest}
    return TrainJob(
        node=spec.node,
        name=f"{spec.node}-{fingerprint(began_with)}",
        storage_path=store.path(training_folder(spec.node)),
        storage_filesystem=None if store.is_local else _arrow_filesystem(store),
        workers=workers,
        gpus_per_worker=gpus if gpus is not None else float(min(1.0, context.sizing().gpus)),
        build=with_worker_logging(partial(build_learner, spec), node=spec.node),
        board=context.board,
    )


def _with_resolved_starts(model: ModelSection) -> ModelSection:
    starts = {name: getattr(model, name) for name in ("vision_start", "text_start")}
    return model.model_copy(
        update={name: a if a is None else resolve_address(a) for name, a in starts.items()}
    )


def training_shards(context: RunContext, node: Node) -> TrainingShards:
    """The shards that a training reads, and how many pairs they hold.

    Raises:
        PartsError: a source has fewer shards with pairs than parts.
    """
    from capfilt.pipeline.nodes.duplicates import surplus_texts

    refs: list[ShardRef] = []
    pairs, pairs_per_epoch, digest = 0, 0.0, hashlib.sha256()
    hold_out = _hold_out(context, node)
    name = verdicts_of(context.config, node)
    surplus = surplus_texts(context.store) if _skips_surplus(context, node) else {}
    for source in sources_of(context.config, node):
        section = context.config.sources[source]
        bootstrapped = section.kind == "web" and _round_of_candidates(node) > 0
        folder = candidates_folder(node.round, source) if bootstrapped else corpus_folder(source)
        found: list[ShardRef] = []
        before = pairs
        for committed in context.ledger.records(folder):
            record = committed if name == DEFAULT_VERDICTS else with_verdicts(context.store, name, committed)
            count = _pairs_in(record, node) - surplus.get((source, record.shard), 0)
            if count:
                found.append(ShardRef(source, record.shard, section.kind))  # type: ignore[arg-type]
                # The records count the texts of held-out images, too.
                pairs += round(count * (1 - hold_out)) if section.kind == "web" else count
                hashes = [file.sha256 for file in record.files]
                digest.update(encode_json([source, record.shard, count, hashes]))
        refs += assign_parts(found, section.parts)
        pairs_per_epoch += (pairs - before) / section.parts
    return TrainingShards(refs, pairs, pairs_per_epoch, digest.hexdigest())


def sources_of(config: Config, node: Node) -> list[str]:
    """Names of the sources that a training reads."""
    names = config.trains_on(node.kind.trains)
    return [name for name in names if name in config.of_kind("human")] if node.kind is HUMAN_ONLY else names


def _round_of_candidates(node: Node) -> int:
    """The round whose candidates a training reads, 0 if it reads the texts of the sources."""
    return node.round if node.kind.trains == "pretrain" and node.kind is not HUMAN_ONLY else 0


def _pairs_in(record: CommitRecord, node: Node) -> int:
    """Pairs of a shard for a training: candidates if the shard has been judged, else the texts of its
    images."""
    if not isinstance(record, CandidatesRecord):
        return record.texts
    match VERDICTS.get(node.kind.name, "kept"):
        case "kept":
            return record.kept
        case "kept_web":
            return record.candidates.get("web", {}).get("kept", 0)
        case "all":
            return sum(of.get("kept", 0) + of.get("dropped", 0) for of in record.candidates.values())


def _skips_surplus(context: RunContext, node: Node) -> bool:
    """Whether the training itself has to skip surplus copies, because it reads web texts that no filter has
    judged."""
    config = context.config
    reads_web = set(sources_of(config, node)) & set(config.of_kind("web"))
    unfiltered = node.kind is PRETRAIN and node.round == 0 and bool(reads_web)
    return unfiltered and config.duplicates.policy == "drop"


def _hold_out(context: RunContext, node: Node) -> float:
    """The share of the web images that a training leaves out."""
    pretrain = context.config.pretrain
    return pretrain.hold_out if pretrain is not None and node.kind.trains == "pretrain" else 0.0


def _relative_address(store: Store, address: str | None) -> str | None:
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
    outputs=_outputs,
    inputs=_pretrain_inputs,
    run=run_training,
    check_inputs=_check_starts,
    shared_outputs=(VOCABULARY,),
    trains="pretrain",
)
CAPTIONER = NodeKind(
    "captioner", outputs=_outputs, inputs=_finetune_inputs, run=run_training, trains="captioner"
)
FILTER = NodeKind("filter", outputs=_outputs, inputs=_finetune_inputs, run=run_training, trains="filter")


def _control(name: str) -> NodeKind:
    return NodeKind(
        name,
        outputs=_outputs,
        inputs=_control_inputs,
        run=run_training,
        check_inputs=_check_starts,
        trains="pretrain",
    )


HUMAN_ONLY = _control("human_only")
CONTROLS = {kind.name: kind for kind in (HUMAN_ONLY, _control("filter_only"), _control("captioner_only"))}
"""Pretrainings to compare with, on other texts than the method's (paper, Table 1)."""
VERDICTS: dict[str, Verdicts] = {"filter_only": "kept_web", "captioner_only": "all"}
"""Kind of node -> which candidates it trains on; all others train on the kept ones."""
