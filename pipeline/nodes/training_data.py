"""What a training reads: which shards, which texts of them, and how often the pairs of each origin occur."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.training import RoleSection, ValidationSection
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.contents.trained_images import TrainedTexts, count_human_images, count_web_images
from capfilt.pipeline.rundir.verdict_sets import verdicts_of, with_verdicts
from capfilt.stages.pairs.parts import ShardRef, assign_parts
from capfilt.stages.pairs.read import Verdicts
from capfilt.stages.pairs.texts import TextsConfig
from capfilt.stages.rows import CANDIDATE_SCHEMA
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord
from capfilt.stages.storage.layout import DEFAULT_VERDICTS, candidates_folder, corpus_folder
from capfilt.stages.storage.sql import open_database, open_parquet
from capfilt.stages.storage.store import encode_json

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext

VERDICTS: dict[str, Verdicts] = {"filter_only": "kept_web", "captioner_only": "all", "itc_top": "itc"}
"""Kind of node -> which candidates it trains on; all others train on the kept ones."""
_JUDGED_WEB_TEXTS = """
    CREATE VIEW judged AS
    SELECT source, shard, kept, itc_sim FROM candidates WHERE origin = 'web' AND kept IS NOT NULL
"""
UNFILTERED_CONTROLS = ("human_only", "web_repeated")
"""Controls that train on the texts of the sources."""


@dataclass(frozen=True)
class TrainingShards:
    """The shards that a training reads."""

    refs: list[ShardRef]
    pairs: int
    """Pairs in all shards, by the commit records; those that never occur do not count, and
    held-out images count by their share. With one text for each image: images that have one."""
    pairs_per_epoch: float
    """Pairs of an average epoch: of a source that trains in n parts, an epoch reads one n-th, and a pair of
    weight w occurs w times."""
    weights: dict[str, float]
    """Weights other than 1 by origin: human, web or synthetic."""
    digest: str
    """Digest of the content of the shards and of the weights."""
    min_itc: float = -1.0
    """Least ITC similarity of the texts that a control chooses by it."""


@dataclass(frozen=True)
class TopItc:
    """The judged web texts of a round with the greatest ITC similarities, as many as the filter has kept."""

    least: float
    """The least of their similarities."""
    texts: Mapping[tuple[str, int], int]
    """{(source, shard): number of these texts}. Texts with equal similarity count all or not at all."""


def find_top_itc(context: RunContext, node: Node) -> TopItc:
    """Choose as many web texts of the node's round by ITC similarity as the filter has kept by ITM
    probability."""
    store = context.store
    files = [
        store.address(f"{candidates_folder(node.round, source)}/{file.name}")
        for source in context.config.of_kind("web")
        for record in context.ledger.records(candidates_folder(node.round, source))
        for file in record.files
    ]
    with open_database() as sql:
        sql.register("candidates", open_parquet(files, CANDIDATE_SCHEMA, store.options))
        sql.execute(_JUDGED_WEB_TEXTS)
        ((judged, kept),) = sql.execute("SELECT count(*), count(*) FILTER (kept) FROM judged").fetchall()
        if not kept:
            return TopItc(1.0, {})
        # The middle of the step of the greatest `kept` values, so that rounding does not matter.
        quantile = (judged - kept + 0.5) / judged
        ((least,),) = sql.execute(f"SELECT quantile_disc(itc_sim, {quantile!r}) FROM judged").fetchall()
        chosen = "SELECT source, shard, count(*) FROM judged WHERE itc_sim >= ? GROUP BY ALL"
        rows = sql.execute(chosen, [least]).fetchall()
    return TopItc(least, {(source, shard): count for source, shard, count in rows})


def training_shards(context: RunContext, node: Node) -> TrainingShards:
    """The shards that a training reads, and how many pairs they hold.

    Raises:
        PartsError: a source has fewer shards with pairs than parts.
    """
    digest = hashlib.sha256()
    top = find_top_itc(context, node) if VERDICTS.get(node.kind.name) == "itc" else None
    found = {
        source: _pairs_by_shard(context, node, source, digest, top)
        for source in sources_of(context.config, node)
    }
    totals = {
        source: sum(map(Counter, of_source.values()), Counter[str]()) for source, of_source in found.items()
    }
    parts = {source: context.config.sources[source].parts for source in found}
    weights = _weights(context, node, sum(totals.values(), Counter[str]()))
    times: Mapping[str, float] = weights
    if texts_of(context.config, node).per_image == "one":
        totals = _count_images(context, node, list(found), top)
        times = {"human": weights.get("human", 1.0)}  # a web image occurs once
    if reads_web_beside(context.config, node):
        # A small share of a large source: each epoch reads some of its shards, and more of their pairs.
        web = [source for source in found if context.config.sources[source].kind == "web"]
        count = max(1, min([int(1 / weights["web"]), *(len(found[source]) for source in web)]))
        parts |= dict.fromkeys(web, count)
        weights["web"] *= count
    if weights:
        digest.update(encode_json(weights))
    refs = [
        ref
        for source, shards in found.items()
        for ref in assign_parts(
            (ShardRef(source, shard, context.config.sources[source].kind) for shard in shards),  # type: ignore[arg-type]
            parts[source],
        )
    ]
    counted = [(source, times.get(o, 1.0), n) for source, of in totals.items() for o, n in of.items()]
    return TrainingShards(
        refs=refs,
        pairs=sum(number for _, weight, number in counted if weight),
        pairs_per_epoch=sum(number * weight / parts[source] for source, weight, number in counted),
        weights=weights,
        digest=digest.hexdigest(),
        min_itc=top.least if top is not None else -1.0,
    )


def sources_of(config: Config, node: Node) -> list[str]:
    """Names of the sources that a training reads."""
    names = config.trains_on(node.kind.trains)
    if node.kind.name == "human_only":
        return [name for name in names if name in config.of_kind("human")]
    return [*names, *config.of_kind("web")] if reads_web_beside(config, node) else names


def candidates_round(node: Node) -> int:
    """The round whose candidates a training reads, 0 if it reads the texts of the sources."""
    return node.round if node.kind.trains == "pretrain" and node.kind.name not in UNFILTERED_CONTROLS else 0


def texts_of(config: Config, node: Node) -> TextsConfig:
    """Which texts a training sees, and how often: what the config says for pretrainings on candidates, each
    text once for all others."""
    if config.pretrain is None or not candidates_round(node):
        return TextsConfig()
    return config.pretrain.texts


def reads_web_beside(config: Config, node: Node) -> bool:
    """Whether the training is a finetuning that reads web pairs beside the human ones."""
    return node.kind.name == "captioner" and config.captioner.web_share > 0


def skips_surplus(config: Config, node: Node) -> bool:
    """Whether the training itself has to skip surplus copies, because it reads web texts that no filter has
    judged."""
    reads_web = set(sources_of(config, node)) & set(config.of_kind("web"))
    return candidates_round(node) == 0 and bool(reads_web) and config.duplicates.policy == "drop"


def hold_out(config: Config, node: Node) -> float:
    """The share of the web images that a training leaves out."""
    reads_web = node.kind.trains == "pretrain" or reads_web_beside(config, node)
    return config.pretrain.hold_out if config.pretrain is not None and reads_web else 0.0


def validation_of(config: Config, node: Node) -> ValidationSection | None:
    """How the training of a node is validated; None if it is not."""
    section = config.training(node.kind.trains)
    return section.validation if isinstance(section, RoleSection) else None


def validation_share(config: Config, node: Node) -> float:
    """The share of the human images that a training does not read, because it is validated on them."""
    validation = validation_of(config, node)
    return 0.0 if validation is None else validation.share


def _pairs_by_shard(
    context: RunContext, node: Node, source: str, digest: hashlib._Hash, top: TopItc | None
) -> dict[int, dict[str, int]]:
    """{shard: {origin: pairs}} of the shards of a source that have pairs; `digest` gets their content."""
    from capfilt.pipeline.nodes.duplicates import surplus_texts

    kind = context.config.sources[source].kind
    judged = kind == "web" and candidates_round(node) > 0
    folder = candidates_folder(node.round, source) if judged else corpus_folder(source)
    surplus = surplus_texts(context.store) if kind == "web" and skips_surplus(context.config, node) else {}
    held_out = hold_out(context.config, node) if kind == "web" else validation_share(context.config, node)
    name = verdicts_of(context.config, node)
    found = {}
    for committed in context.ledger.records(folder):
        record = committed if name == DEFAULT_VERDICTS else with_verdicts(context.store, name, committed)
        pairs = _pairs_of(record, node, kind)
        if judged and top is not None:
            pairs = {"web": top.texts.get((source, record.shard), 0)}
        if not judged:
            pairs = {kind: pairs[kind] - surplus.get((source, record.shard), 0)}
        if count := sum(pairs.values()):
            # The records count the texts of held-out images, too.
            found[record.shard] = {origin: round(number * (1 - held_out)) for origin, number in pairs.items()}
            hashes = [file.sha256 for file in record.files]
            digest.update(encode_json([source, record.shard, count, hashes]))
    return found


def _count_images(
    context: RunContext, node: Node, sources: list[str], top: TopItc | None
) -> dict[str, Counter[str]]:
    """{source: {kind of the source: images with a text that the training reads}}; held-out images count by
    their share."""
    config = context.config
    texts = TrainedTexts(
        round=node.round,
        verdicts=VERDICTS.get(node.kind.name, "kept"),
        verdict_set=verdicts_of(config, node),
        origins=tuple(origin for origin, weight in texts_of(config, node).weights.items() if weight),
        min_itc=top.least if top is not None else -1.0,
    )
    totals = {}
    for source in sources:
        if config.sources[source].kind == "human":
            totals[source] = Counter({"human": count_human_images(context.ledger, source)})
        else:
            images = count_web_images(context.store, context.ledger, source, texts)
            totals[source] = Counter({"web": round(images * (1 - hold_out(config, node)))})
    return totals


def _pairs_of(record: CommitRecord, node: Node, kind: str) -> dict[str, int]:
    """Pairs of a shard for a training by origin: candidates if the shard has been judged, else the texts of
    its images."""
    if not isinstance(record, CandidatesRecord):
        return {kind: record.texts}
    kept = {origin: of.get("kept", 0) for origin, of in record.candidates.items()}
    match VERDICTS.get(node.kind.name, "kept"):
        case "kept":
            return kept
        case "kept_web":
            return {"web": kept.get("web", 0)}
        case "all" | "itc":
            return {o: of.get("kept", 0) + of.get("dropped", 0) for o, of in record.candidates.items()}


def _weights(context: RunContext, node: Node, pairs: Mapping[str, int]) -> dict[str, float]:
    """How often a pair of each origin occurs in an epoch, where that is not once.

    Args:
        pairs: {origin: pairs} of all shards that the training reads.
    """
    config = context.config
    if reads_web_beside(config, node):
        share = config.captioner.web_share
        return {"web": share / (1 - share) * pairs.get("human", 0) / max(1, pairs.get("web", 0))}
    if node.kind.name == "web_repeated":
        records = (
            record
            for source in sources_of(config, node)
            if config.sources[source].kind == "web"
            for record in context.ledger.records(candidates_folder(node.round, source))
        )
        kept = sum(record.kept for record in records if isinstance(record, CandidatesRecord))
        return {"web": kept / max(1, pairs.get("web", 0))}
    return {origin: weight for origin, weight in texts_of(config, node).weights.items() if weight != 1}
