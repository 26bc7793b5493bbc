"""The nodes that train: pretraining and the two finetunings, on Ray Train."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from capfilt.cluster.training.trainer import TrainingStopped, TrainJob, fit
from capfilt.pipeline.config.schema import ModelSection
from capfilt.pipeline.config.start_weights import resolve_address
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.duplicates import ensure_counted, surplus_texts
from capfilt.pipeline.plan import Node
from capfilt.pipeline.rundir.ledger import fingerprint
from capfilt.pipeline.rundir.outputs import outputs_of
from capfilt.pipeline.training.build import build_learner
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.pipeline.training.vocabulary import ensure_tokenizer
from capfilt.stages.pairs.parts import ShardRef, assign_parts
from capfilt.stages.storage.store import Store, encode_json


def run_training(run: RunContext, node: Node) -> dict[str, Any]:
    """Pretraining or finetuning on Ray Train."""
    train = run.config.trainings()[node.kind]
    if _without_surplus(run, node):
        ensure_counted(run.config, run.store, run.ledger)
    refs, pairs, pairs_per_epoch, content = training_shards(run, node)
    if pairs < 2:
        raise NodeFailed(f"{node.name}: {pairs} training pairs; nothing to train on")
    # Epochs differ where a source trains in parts; schedules and `epochs` go by the mean epoch, which is exact
    # over every full turn of the parts.
    per_epoch = max(1, round(pairs_per_epoch) // train.batch_size)
    steps = train.steps if train.steps is not None else max(1, round((train.epochs or 1) * per_epoch))
    run.progress.set_total(node.name, steps, unit="steps")
    start = _start_of(run, node)
    spec = LearnerSpec(
        node=node.name,
        kind=node.kind,  # type: ignore[arg-type]
        run=run.store,
        train=train,
        model=_with_located_starts(run.config.model),
        start=start,
        tokenizer=ensure_tokenizer(run.config, run.store, run.ledger) if start is None else "",
        shards=tuple(refs),
        round=node.round if node.kind == "pretrain" else 0,
        without_surplus=_without_surplus(run, node),
        seed=run.config.run.seed * 1000 + node.round,
        total_steps=steps,
        steps_per_epoch=per_epoch,
        provenance={"fingerprint": run.prints.of(node.name), "pairs": pairs, "start": _in_run(run, start)},
    )
    filesystem = None if run.store.is_local else _arrow_filesystem(run.store)
    gpus = train.workers.gpus_per_worker
    job = TrainJob(
        node=node.name,
        # A training that is half done goes on only with the data it began with: `retry` may have changed them.
        name=f"{node.name}-{fingerprint({'node': run.prints.of(node.name), 'content': content})}",
        storage=run.store.path(f"train/{node.name}"),
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
    run.store.remove(f"train/{node.name}")
    return {
        "outputs": outputs_of(node)[:1],
        "counts": {"pairs": pairs, "steps": steps},
        "summary": f"{pairs:,} pairs, {steps:,} steps of {train.batch_size}",
    }


def _with_located_starts(model: ModelSection) -> ModelSection:
    starts = {name: getattr(model, name) for name in ("vision_start", "text_start")}
    return model.model_copy(
        update={name: a if a is None else resolve_address(a) for name, a in starts.items()}
    )


def training_shards(run: RunContext, node: Node) -> tuple[list[ShardRef], int, float, str]:
    """Shards a training reads, how many pairs they hold by their commit records, how many of these an epoch has in
    the mean (all, but of a source in n parts one n-th), and a digest of what the shards hold.

    Raises:
        PartsError: a source has fewer shards with pairs than parts.
    """
    refs: list[ShardRef] = []
    pairs, pairs_per_epoch, content = 0, 0.0, hashlib.sha256()
    surplus = surplus_texts(run.store) if _without_surplus(run, node) else {}
    for source in run.config.trains_on(node.kind):
        section = run.config.sources[source]
        bootstrapped = section.kind == "web" and node.round > 0
        folder = f"rounds/{node.round}/{source}" if bootstrapped else f"corpus/{source}"
        found: list[ShardRef] = []
        before = pairs
        for record in run.ledger.records(folder):
            kept = sum(v.get("kept", 0) for v in record.get("candidates", {}).values())
            raw = record.get("texts", 0) - surplus.get((source, record["shard"]), 0)
            count = kept if bootstrapped else raw
            if count:
                found.append(ShardRef(source, record["shard"], section.kind))  # type: ignore[arg-type]
                pairs += count
                hashes = [file["sha256"] for file in record["files"]]
                content.update(encode_json([source, record["shard"], count, hashes]))
        refs += assign_parts(found, section.parts)
        pairs_per_epoch += (pairs - before) / section.parts
    return refs, pairs, pairs_per_epoch, content.hexdigest()


def _without_surplus(run: RunContext, node: Node) -> bool:
    """Whether a training on web texts as they came has to leave surplus copies out by itself."""
    reads_web = set(run.config.trains_on(node.kind)) & set(run.config.of_kind("web"))
    raw = node.kind == "pretrain" and node.round == 0 and bool(reads_web)
    return raw and run.config.duplicates.policy == "drop"


def _in_run(run: RunContext, address: str | None) -> str | None:
    """The address of a checkpoint as provenance tells it: from the run directory on where it lies there, so that a run
    means the same wherever it is moved."""
    return None if address is None else address.removeprefix(run.store.address(""))


def _start_of(run: RunContext, node: Node) -> str | None:
    """Checkpoint a training starts from; None = from scratch."""
    if node.kind != "pretrain" or (
        run.config.continue_training and f"pretrain.{node.round - 1}" in run.nodes
    ):
        return run.store.address(f"models/pretrain.{node.round - 1}")
    return None


def _arrow_filesystem(store: Store) -> Any:
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(store.fs))
