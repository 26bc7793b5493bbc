"""What each node of the DAG does. A node runs on the driver, in its own thread; the work runs on the cluster."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cluster.engine import Step, run_chain
from cluster.metrics import Board
from cluster.sizing import Sizing, size
from cluster.train import TrainJob, fit
from pipeline.chain import bootstrap_steps, fetch_configs, fetch_steps
from pipeline.config import Config, ModelSection, TrainSection
from pipeline.evaluating import evaluate_models
from pipeline.inputs import Fingerprints
from pipeline.ledger import Ledger, fingerprint
from pipeline.plan import Node
from pipeline.progress import Progress
from pipeline.reporting import write_report
from pipeline.training import LearnerSpec, build_learner
from pipeline.vocabulary import ensure_tokenizer
from stages.artifacts import absolute
from stages.manifest import build_index
from stages.pairs import ShardRef
from stages.store import Store


class NodeFailed(RuntimeError):
    """A node cannot end well; the message says why and what to do. What it committed stays."""


@dataclass
class Run:
    """One run in the driver: config, place, plan and what watches it."""

    config: Config
    store: Store
    ledger: Ledger
    nodes: dict[str, Node]
    prints: Fingerprints
    progress: Progress
    board: Board | None
    """None until the cluster is there."""

    def sizing(self) -> Sizing:
        return size(self.config.cluster)


def run_node(run: Run, node: Node) -> dict[str, Any]:
    """Do a node's work, or what is left of it.

    Returns:
        {"outputs", "counts", "summary", …} for the node's record.

    Raises:
        NodeFailed: with one line for the user.
    """
    work = {
        "fetch": run_fetch,
        "bootstrap": run_bootstrap,
        "pretrain": run_training,
        "captioner": run_training,
        "filter": run_training,
        "evaluate": run_evaluate,
        "report": run_report,
    }
    return work[node.kind](run, node)


def outputs_of(run: Run, node: Node) -> list[str]:
    """Folders a node makes, inside the run directory."""
    if node.kind == "fetch":
        return [f"corpus/{source}" for source in node.sources]
    if node.kind == "bootstrap":
        return [f"rounds/{node.round}/{source}" for source in node.sources]
    if node.kind == "report":
        return [f"reports/{node.round}"]
    return [] if node.kind == "evaluate" else [f"models/{node.name}", f"train/{node.name}"]


def run_fetch(run: Run, node: Node) -> dict[str, Any]:
    """Manifests → corpus shards."""
    prints = {source: fingerprint(run.prints.corpus(source)) for source in node.sources}
    with ExitStack() as stack:
        configs = fetch_configs(run.config, node.sources, stack)
        steps = fetch_steps(run.store, configs, prints, run.sizing())
        counts = _run_shards(run, node, steps, "corpus")
    for source in node.sources:
        _check_failures(run, source, counts["by_source"][source])
    return {"outputs": outputs_of(run, node), "counts": counts, "summary": status_summary(counts["status"])}


def run_bootstrap(run: Run, node: Node) -> dict[str, Any]:
    """Corpus shards (or manifest slices) → judged candidates."""
    sources = [source for source in node.sources if not _fetched_elsewhere(run, source)]
    models, tokenizers, digests = {}, {}, {}
    for role in ("captioner", "filter"):
        models[role], tokenizers[role], digests[role] = _model_of(run, node, role)
    for source in sources:
        _check_corpus(run, source)
    with ExitStack() as stack:
        fetching = fetch_configs(run.config, tuple(sources), stack)
        steps = bootstrap_steps(
            run.config,
            run.store,
            node.round,
            models=models,
            tokenizers=tokenizers,
            digests=digests,
            fingerprint=run.prints.of(node.name),
            fetching=fetching,
            corpus_fingerprints={s: fingerprint(run.prints.corpus(s)) for s in sources},
            sizing=run.sizing(),
        )
        counts = _run_shards(run, node, steps, f"rounds/{node.round}")
    for source in node.sources:
        _check_failures(run, source, counts["by_source"][source])
    return {
        "outputs": outputs_of(run, node),
        "counts": counts,
        "models": digests,
        "summary": candidate_summary(counts["candidates"]),
    }


def _fetched_elsewhere(run: Run, source: str) -> bool:
    """Whether a fetch node or an earlier round brought the source's images."""
    fetch = run.nodes.get("fetch")
    return fetch is not None and source in fetch.sources


def _check_corpus(run: Run, source: str) -> None:
    """Images that a bootstrap fetched before were fetched with the present settings."""
    committed = run.ledger.committed(f"corpus/{source}")
    if committed:
        record = run.store.read_json(f"corpus/{source}/{committed[0]:06d}.json")
        if record["fingerprint"] != fingerprint(run.prints.corpus(source)):
            raise NodeFailed(
                f"corpus/{source} was fetched with other settings than the config has now; "
                "fetch it again with --fresh fetch, or use another run directory"
            )


def _model_of(run: Run, node: Node, role: Literal["captioner", "filter"]) -> tuple[str, str | None, str]:
    """Address, tokenizer address and digest of the captioner or filter of a bootstrap."""
    trained = f"{role}.{node.round}"
    if trained in node.needs:
        return run.store.address(f"models/{trained}"), None, run.prints.of(trained)
    section = getattr(run.config, role)
    tokenizer = absolute(section.tokenizer) if section.tokenizer is not None else None
    return absolute(section.checkpoint), tokenizer, run.prints.checkpoint(role)[:16]


def _run_shards(run: Run, node: Node, steps: list[Step], folder: str) -> dict[str, Any]:
    """Run the chain over every shard without a commit record; then count all records of the node."""
    todo: list[dict[str, Any]] = []
    shards: dict[str, int] = {}
    rows = done_rows = 0
    for source in node.sources:
        index = build_index(
            run.config.sources[source].rows, run.store / f"corpus/{source}/index", source=source
        )
        committed = set(run.ledger.committed(f"{folder}/{source}"))
        shards[source], rows = index.shards, rows + index.rows
        done_rows += min(index.rows, len(committed) * run.config.sources[source].rows.shard_size)
        todo += [{"source": source, "shard": s} for s in range(index.shards) if s not in committed]
    run.progress.set_total(node.name, rows, unit="rows")
    run.progress.advance(node.name, done_rows)
    seconds: Counter[str] = Counter()
    fresh = 0
    for result in run_chain(todo, steps, segment=run.config.cluster.segment, name=node.name) if todo else ():
        record = list(json.loads(result["records"]).values())[-1]
        fresh += record["rows"]["read"]
        seconds.update(record["seconds"])
        rates = "  ".join(f"{name} {fresh / max(spent, 1e-9):,.0f}/s" for name, spent in seconds.items())
        run.progress.advance(node.name, done_rows + fresh, rates)
    for source, count in shards.items():
        missing = sorted(set(range(count)) - set(run.ledger.committed(f"{folder}/{source}")))
        if missing:
            raise NodeFailed(
                f"{node.name}: {len(missing)} of {count} shards of {source} failed for good "
                f"(first: {missing[0]}); the causes are in Ray's logs; the same command tries just these again"
            )
    return _count(run, node, folder)


def _count(run: Run, node: Node, folder: str) -> dict[str, Any]:
    """Totals over the commit records of all sources of a node."""
    by_source: dict[str, dict[str, int]] = {}
    status: Counter[str] = Counter()
    candidates: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    texts = 0
    for source in node.sources:
        of_source: Counter[str] = Counter()
        for record in run.ledger.records(f"{folder}/{source}"):
            of_source.update(record["rows"]["status"])
            seconds.update(record["seconds"])
            texts += record.get("texts", 0)
            for origin, verdicts in record.get("candidates", {}).items():
                candidates.setdefault(origin, Counter()).update(verdicts)
        by_source[source] = dict(of_source)
        status.update(of_source)
    return {
        "rows": sum(status.values()),
        "status": dict(status),
        "by_source": by_source,
        "candidates": {origin: dict(verdicts) for origin, verdicts in candidates.items()},
        "texts": texts,
        "stage_seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def _check_failures(run: Run, source: str, status: dict[str, int]) -> None:
    rows = sum(status.values())
    failed = rows - status.get("success", 0)
    limit = run.config.run.max_failed_fraction
    if rows and (failed / rows > limit or failed == rows):
        worst = ", ".join(f"{n} {s}" for s, n in Counter(status).most_common(4) if s != "success")
        raise NodeFailed(
            f"source {source}: {failed} of {rows} rows failed ({worst}), more than run.max_failed_fraction = "
            f"{limit:g} allows; look at corpus/{source}/*.parquet (status, error_message), mend the cause and "
            "run with --fresh for this node, or raise the limit"
        )


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
    fit(
        TrainJob(
            node=node.name,
            name=f"{node.name}-{run.prints.of(node.name)}",
            storage=run.store.path("train"),
            storage_filesystem=filesystem,
            workers=train.workers,
            gpus=gpus if gpus is not None else float(min(1.0, run.sizing().gpus)),
            build=partial(build_learner, spec),
            board=run.board,
        )
    )
    if not run.store.exists(f"models/{node.name}/provenance.json"):
        raise NodeFailed(f"{node.name}: training ended without a checkpoint in models/{node.name}")
    run.store.remove(f"train/{node.name}-{run.prints.of(node.name)}")
    return {
        "outputs": outputs_of(run, node)[:1],
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


def run_evaluate(run: Run, node: Node) -> dict[str, Any]:
    """Retrieval and captioning of the pretrained MEDs on the test sources."""
    names = [need for need in node.needs if need.startswith("pretrain.")]
    results = evaluate_models(run.config, run.store, run.ledger, names, run.sizing())
    summary = "  ".join(
        f"{name}: ITC TR@1 {r['retrieval']['itc_tr@1']:.1f} IR@1 {r['retrieval']['itc_ir@1']:.1f}"
        for name, r in results.items()
    )
    return {"outputs": [], "results": results, "counts": {}, "summary": summary}


def run_report(run: Run, node: Node) -> dict[str, Any]:
    """Noise ratios, metrics and the page."""
    metrics = write_report(run.config, run.store, run.ledger, run.nodes, node.round)
    ratios = ", ".join(f"{origin} {value:.3f}" for origin, value in metrics["noise_ratio"].items())
    return {"outputs": outputs_of(run, node), "counts": {}, "summary": f"noise ratio {ratios}"}


def status_summary(status: dict[str, int]) -> str:
    """Rows by status, most frequent first."""
    return ", ".join(f"{count:,} {name}" for name, count in Counter(status).most_common())


def candidate_summary(candidates: dict[str, dict[str, int]]) -> str:
    """Kept of judged per origin."""
    parts = []
    for origin, verdicts in candidates.items():
        judged = verdicts.get("kept", 0) + verdicts.get("dropped", 0)
        parts.append(f"{origin}: kept {verdicts.get('kept', 0):,} of {judged:,}")
    return ", ".join(parts)
