"""The node that captions and filters images: corpus shards (or slices of a manifest) → judged candidates."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.sections import NO_CAPTIONER
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.node import Node, NodeKind, NodeResult
from capfilt.pipeline.rundir.start_weights import check_given_models, check_start_weights
from capfilt.stages.bootstrap.language import PACKAGE
from capfilt.stages.bootstrap.model_source import ModelSource, Role
from capfilt.stages.carried.fields import ColumnsError
from capfilt.stages.manifest.index import read_index
from capfilt.stages.rows import CARRIED, LANGUAGE
from capfilt.stages.shards.commit import read_commit
from capfilt.stages.storage.layout import (
    INDEX_PARTS,
    candidates_folder,
    corpus_folder,
    corpus_shard,
    index_folder,
    shard_folders,
)
from capfilt.stages.storage.store import Store

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints

ROLES: tuple[Role, ...] = ("captioner", "filter")


def _outputs(node: Node) -> list[str]:
    folders = (candidates_folder(node.round, source) for source in node.sources)
    return [each for folder in folders for each in shard_folders(folder)]


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    data = fingerprints.config_data
    generate = {k: v for k, v in data["captioner"]["generate"].items() if k != "batch_size"}
    roles = _roles(fingerprints.config)
    captioner: Any = {"generate": generate} if "captioner" in roles else NO_CAPTIONER
    judge = {k: v for k, v in data["filter"]["judge"].items() if k != "batch_size"}
    if not judge["language"]:  # earlier versions knew no languages
        del judge["language"]
    given: dict[str, str | None] = {
        role: fingerprints.checkpoint(role) for role in roles if not node.trained_models(role)
    }
    for role in list(given):
        if (tokenizer := fingerprints.tokenizer(role)) is not None:
            given[f"{role}_tokenizer"] = tokenizer
    combined: dict[str, Any] = {"shared_finetune": True} if fingerprints.config.shared_finetune else {}
    combined |= {f"{role}_ensemble": n for role in ROLES if (n := data[role]["ensemble"]) > 1}
    return combined | {
        "seed": fingerprints.config.run.seed,
        "captioner": captioner,
        "filter": {"judge": judge},
        "duplicates": data["duplicates"],
        "checkpoints": given,
        "sources": {source: fingerprints.corpus_inputs(source) for source in node.sources},
    }


def _roles(config: Config) -> tuple[Role, ...]:
    """The models of a bootstrap."""
    return ROLES if config.captions_itself else ("filter",)


def _check_models(config: Config, run_dir: Store) -> None:
    if config.filter.judge.language:
        _check_languages(config, run_dir)
    check_start_weights(config, run_dir, {BOOTSTRAP.name})
    check_given_models(config, run_dir)


def _check_languages(config: Config, run_dir: Store) -> None:
    """Check that languages can be guessed, and that the column `language` is free.

    Raises:
        ConfigError: a package is missing.
        ColumnsError: a source carries a column of this name.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError(
            f"filter.judge.language: needs {PACKAGE}, which is not installed: pip install "
            "'capfilt[language]', or remove the key"
        )
    for source in config.of_kind("web"):
        for name in _carried_names(run_dir / index_folder(source)):
            if name.casefold() == LANGUAGE.name:
                raise ColumnsError(
                    f"sources.{source}.rows: carries a column {name}, and filter.judge.language makes one "
                    f"of this name (case does not count); add rename_columns: {{{name}: {source}_{name}}} to "
                    f"sources.{source}.rows, or remove filter.judge.language"
                )


def _carried_names(index_dir: Store) -> list[str]:
    """Names of the columns that a source carries; [] if its manifest is not cut into shards yet: then it
    carries none."""
    index = read_index(index_dir)
    if index is None or not index.parts:
        return []
    with index_dir.fs.open(index_dir.path(f"{INDEX_PARTS}/{index.parts[0].name}"), "rb") as stream:
        schema = pq.read_schema(stream)
    return [f.name for f in schema.field(CARRIED).type] if CARRIED in schema.names else []


def run_bootstrap(context: RunContext, node: Node) -> NodeResult:
    """Caption every image of the node's sources and judge the candidates. Images that no fetch node has
    downloaded are downloaded in the same pass."""
    from capfilt.pipeline.nodes.chain import bootstrap_steps, fetch_configs
    from capfilt.pipeline.nodes.context import model_of
    from capfilt.pipeline.nodes.duplicates import mark_round
    from capfilt.pipeline.nodes.failures import check_failed_fraction
    from capfilt.pipeline.nodes.shards import run_shards
    from capfilt.pipeline.rundir.contents.totals import Totals, count_bytes

    downloaded_here = tuple(source for source in node.sources if not _has_fetch_node(context, source))
    roles = _roles(context.config)
    models: dict[str, ModelSource] = {role: model_of(context, node, role) for role in roles}
    for source in downloaded_here:
        _check_corpus(context, source)
    folders = {source: candidates_folder(node.round, source) for source in node.sources}
    with ExitStack() as stack:
        configs = fetch_configs(context.config, downloaded_here, stack, context.serving_host())
        efficiency = run_shards(
            context, node, partial(bootstrap_steps, context, node, models, configs), folders
        )
    totals = Totals(node.sources)
    mark_round(context, node, fetched=bool(downloaded_here), on_record=totals.add)
    counts = totals.as_counts()
    counts["bytes"] |= count_bytes(context.ledger, {name: corpus_folder(name) for name in downloaded_here})
    if efficiency:
        counts["efficiency"] = {stage: asdict(found) for stage, found in efficiency.items()}
    for source in node.sources:
        check_failed_fraction(context.config, source, counts["by_source"][source])
    return NodeResult(
        candidate_summary(counts["candidates"]),
        tuple(node.outputs),
        counts,
        models={role: model.digests for role, model in models.items()},
    )


def _has_fetch_node(context: RunContext, source: str) -> bool:
    fetch = context.run_dir.nodes.get("fetch")
    return fetch is not None and source in fetch.sources


def _check_corpus(context: RunContext, source: str) -> None:
    """Check that images in the corpus, which an earlier bootstrap downloaded, were downloaded with the
    settings of the config.

    Raises:
        NodeFailed: they were downloaded with others.
    """
    committed = context.ledger.committed_shards(corpus_folder(source))
    if not committed:
        return
    record = read_commit(context.store, corpus_shard(source, committed[0]).record)
    if record.fingerprint != context.fingerprints.corpus(source):
        raise NodeFailed(
            f"{corpus_folder(source)} was fetched with other settings than the config has now; "
            "fetch it again with --fresh fetch, or use another run directory"
        )


def candidate_summary(candidates: dict[str, dict[str, int]]) -> str:
    """One line: how many candidates of each origin were kept, and how many were judged."""
    parts = []
    for origin, verdicts in candidates.items():
        judged = verdicts.get("kept", 0) + verdicts.get("dropped", 0)
        parts.append(f"{origin}: kept {verdicts.get('kept', 0):,} of {judged:,}")
    return ", ".join(parts)


BOOTSTRAP = NodeKind(
    "bootstrap",
    outputs=_outputs,
    inputs=_inputs,
    run=run_bootstrap,
    check_inputs=_check_models,
    streams_shards=True,
    judges=True,
)
