"""The nodes that train: pretraining and the two finetunings, on Ray Train."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from cluster.train import TrainingStopped, TrainJob, fit
from pipeline.config import Config, ModelSection, TrainSection
from pipeline.context import Run
from pipeline.errors import NodeFailed
from pipeline.learner_spec import LearnerSpec, build_learner
from pipeline.plan import Node, outputs_of
from pipeline.vocabulary import ensure_tokenizer
from stages.artifacts import absolute
from stages.pairs import ShardRef
from stages.store import Store


def run_training(run: Run, node: Node) -> dict[str, Any]:
    """Pretraining or finetuning on Ray Train."""
    train = _train_section(run.config, node)
    refs, pairs = _training_shards(run, node)
    if pairs < 2:
        raise NodeFailed(f"{node.name}: {pairs} training pairs; nothing to train on")
    per_epoch = max(1, pairs // train.batch_size)
    steps = train.steps if train.steps is not None else max(1, round((train.epochs or 1) * per_epoch))
    run.progress.set_total(node.name, steps, unit="steps")
    start = _start_of(run, node)
    spec = LearnerSpec(
        node=node.name,
        kind=node.kind,  # type: ignore[arg-type]
        run=run.store,
        train=train,
        model=_with_absolute_starts(run.config.model),
        start=start,
        tokenizer=ensure_tokenizer(run.config, run.store, run.ledger) if start is None else "",
        shards=tuple(refs),
        round=node.round if node.kind == "pretrain" else 0,
        seed=run.config.run.seed * 1000 + node.round,
        total_steps=steps,
        steps_per_epoch=per_epoch,
        provenance={"fingerprint": run.prints.of(node.name), "pairs": pairs, "start": start},
    )
    filesystem = None if run.store.is_local else _arrow_filesystem(run.store)
    gpus = train.workers.gpus_per_worker
    job = TrainJob(
        node=node.name,
        name=f"{node.name}-{run.prints.of(node.name)}",
        storage=run.store.path("train"),
        storage_filesystem=filesystem,
        workers=train.workers,
        gpus=gpus if gpus is not None else float(min(1.0, run.sizing().gpus)),
        build=partial(build_learner, spec),
        board=run.board,
    )
    try:
        fit(job)
    except TrainingStopped as verdict:
        raise NodeFailed(str(verdict)) from verdict
    if not run.store.exists(f"models/{node.name}/provenance.json"):
        raise NodeFailed(f"{node.name}: training ended without a checkpoint in models/{node.name}")
    run.store.remove(f"train/{job.name}")
    return {
        "outputs": outputs_of(node)[:1],
        "counts": {"pairs": pairs, "steps": steps},
        "summary": f"{pairs:,} pairs, {steps:,} steps of {train.batch_size}",
    }


def _with_absolute_starts(model: ModelSection) -> ModelSection:
    text = absolute(model.text_start) if model.text_start is not None else None
    vision = model.vision_start
    if vision is not None and Path(vision).exists():  # else it is the name of a timm model
        vision = absolute(vision)
    return model.model_copy(update={"text_start": text, "vision_start": vision})


def _train_section(config: Config, node: Node) -> TrainSection:
    sections = {
        "pretrain": config.pretrain,
        "captioner": config.captioner.finetune,
        "filter": config.filter.finetune,
    }
    section = sections[node.kind]
    assert section is not None, f"{node.name} is planned, so its section is there"
    return section


def _training_shards(run: Run, node: Node) -> tuple[list[ShardRef], int]:
    """Shards a training reads and how many pairs they hold, from the commit records."""
    refs: list[ShardRef] = []
    pairs = 0
    kinds = ("human", "web") if node.kind == "pretrain" else ("human",)
    for source in run.config.of_kind(*kinds):
        kind = run.config.sources[source].kind
        bootstrapped = kind == "web" and node.round > 0
        folder = f"rounds/{node.round}/{source}" if bootstrapped else f"corpus/{source}"
        for record in run.ledger.records(folder):
            kept = sum(v.get("kept", 0) for v in record.get("candidates", {}).values())
            count = kept if bootstrapped else record["texts"]
            if count:
                refs.append(ShardRef(source, record["shard"], kind))  # type: ignore[arg-type]
                pairs += count
    return refs, pairs


def _start_of(run: Run, node: Node) -> str | None:
    """Checkpoint a training starts from; None = from scratch."""
    if node.kind != "pretrain" or (
        run.config.continue_training and f"pretrain.{node.round - 1}" in run.nodes
    ):
        return run.store.address(f"models/pretrain.{node.round - 1}")
    return None


def _arrow_filesystem(store: Store) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(store.fs))
