"""What an export consists of, found out and checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from capfilt.pipeline.export.columns import available_columns, choose_columns
from capfilt.pipeline.export.uids import check_uids, uid_columns
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.ledger import fingerprint
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.errors import UserError
from capfilt.stages.export.config import SUFFIXES, WEIGHT, WITH_WEIGHTS, ExportConfig
from capfilt.stages.export.forms import Form, Origin
from capfilt.stages.pairs.texts import TextsConfig
from capfilt.stages.shards.records import CandidatesRecord
from capfilt.stages.storage.artifacts import absolute_address
from capfilt.stages.storage.filesystems import protocol_of
from capfilt.stages.storage.layout import (
    DEFAULT_VERDICTS,
    candidates_folder,
    corpus_folder,
    export_folder,
)
from capfilt.stages.storage.store import Store
from capfilt.stages.verdicts.sets import VerdictSet, check_current, list_sets, open_set

UNWEIGHED = tuple(form for form in SUFFIXES if form not in WITH_WEIGHTS)
"""Forms without a column of weights."""


class ExportError(UserError):
    """An export that cannot be made, or a folder that it cannot be written to."""


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What the user asks for."""

    form: Form
    out: str
    """Local folder or any fsspec URL."""
    round: int | None = None
    """None: the last round that is bootstrapped, and that has the verdicts."""
    verdicts: str = DEFAULT_VERDICTS
    """The set of verdicts that decides (`capfilt rejudge`)."""
    human: bool = False
    """Export the human pairs too."""
    origins: tuple[Origin, ...] | None = None
    """Origins of the candidates; None: all, but for `datacomp-uids` only `web`."""
    columns: tuple[str, ...] | None = None
    """Further columns; None: those of the user that the corpus has."""


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """A checked export."""

    config: ExportConfig
    inputs: dict[str, Any]
    """Everything that determines the export, as JSON-like data."""
    shards: dict[str, int]
    """{source: number of its shards}, in the order of the exported shards."""

    @property
    def total(self) -> int:
        """Number of exported shards."""
        return sum(self.shards.values())

    def parts(self) -> list[dict[str, Any]]:
        """{"source", "shard"} of every shard, in the order of the exported shards."""
        return [{"source": source, "shard": s} for source, n in self.shards.items() for s in range(n)]


def plan_export(run_dir: RunDir, request: ExportRequest) -> ExportPlan:
    """Check a request against the run, and find out everything that determines its output.

    Raises:
        ExportError: the run cannot give what is asked for; one line that says what to do.
        LedgerError: a record is damaged.
    """
    out = open_target(run_dir.store, request.out)
    node = _bootstrapped(run_dir, request)
    named = None
    if request.verdicts != DEFAULT_VERDICTS:
        named = open_set(run_dir.store, request.verdicts, node.round)
    kinds = _sources(run_dir, node, request.human)
    origins = request.origins or (("web",) if request.form == "datacomp-uids" else ("web", "synthetic"))
    available = {s: available_columns(run_dir.store, s, kind, node.round) for s, kind in kinds.items()}
    pretrain = run_dir.config.pretrain
    config = ExportConfig(
        run_dir=run_dir.store,
        out=out,
        form=request.form,
        round=node.round,
        verdicts=request.verdicts,
        kinds=kinds,
        origins=origins,
        columns=choose_columns(available, () if request.form == "datacomp-uids" else request.columns),
        places=_places(run_dir, kinds) if request.form == "blip-json" else {},
        texts=weighed_texts(pretrain.texts, request.form) if pretrain is not None else None,
    )
    if config.texts is not None and any(WEIGHT in schema.names for schema in available.values()):
        raise ExportError(
            f"{run_dir.store.url.rstrip('/')}: your rows have a column {WEIGHT}, which is also the column of "
            f"pretrain.texts; rename yours in the manifest, or export another form ({', '.join(UNWEIGHED)})"
        )
    if request.form == "datacomp-uids":
        ids = uid_columns(run_dir, available)
        fields = [available[source].field(name) for source, name in ids.items()]
        config = replace(config, uid_columns=ids, columns=_with_fields(config.columns, fields))
        check_uids(run_dir, ids)
    shards, sources = _count_shards(run_dir, config, named)
    inputs = {
        "form": request.form,
        "round": node.round,
        "verdicts": request.verdicts,
        **({"rules": named.fingerprint} if named is not None else {}),
        "origins": list(origins),
        "human": request.human,
        "columns": {field.name: str(field.type) for field in config.columns},
        "sources": sources,
        **({"places": dict(config.places)} if config.places else {}),
        **({"texts": text_weights(config.texts)} if config.texts is not None else {}),
    }
    firsts, number = {}, 0
    for source, count in shards.items():
        firsts[source], number = number, number + count
    config = replace(config, first_numbers=firsts, fingerprint=fingerprint(inputs))
    return ExportPlan(config=config, inputs=inputs, shards=shards)


def parse_origins(text: str | None) -> tuple[Origin, ...] | None:
    """The origins of `--origins`, in the order of the candidates; None if the option is not given.

    Raises:
        ExportError: one of them is none.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in get_args(Origin)]:
        raise ExportError(f"--origins {text}: {unknown[0]!r} is no origin; allowed: web, synthetic, or both")
    return tuple(origin for origin in get_args(Origin) if origin in names)


def open_target(run: Store, out: str) -> Store:
    """The folder of an export.

    Raises:
        ExportError: it lies in a folder of the run directory that holds something else.
    """
    place, inside = absolute_address(out).rstrip("/"), f"{run.url.rstrip('/')}/"
    exports = f"{inside}{export_folder(1).partition('/')[0]}/"
    if f"{place}/".startswith(inside) and not place.startswith(exports):
        raise ExportError(f"OUT {out}: lies in the run directory; name a folder outside it, or in {exports}")
    return Store(place, run.options if protocol_of(place) == protocol_of(run.url) else None)


def _bootstrapped(run_dir: RunDir, request: ExportRequest) -> Node:
    """The node of the round that is asked for."""
    round_ = request.round
    place = run_dir.store.url.rstrip("/")
    judging = [node for node in run_dir.nodes.values() if node.kind.judges]
    done = [node for node in judging if run_dir.ledger.node(node.name) is not None]
    if round_ is None:
        if not done:
            raise ExportError(f"{place}: no round is bootstrapped yet; finish one with capfilt run")
        if request.verdicts != DEFAULT_VERDICTS:
            judged = {number for name, number in list_sets(run_dir.store) if name == request.verdicts}
            done = [node for node in done if node.round in judged] or done
        return done[-1]
    for node in done:
        if node.round == round_:
            return node
    rounds = ", ".join(str(node.round) for node in done) or "none"
    raise ExportError(f"--round {round_}: is not bootstrapped in {place}; bootstrapped: {rounds}")


def _sources(run_dir: RunDir, node: Node, human: bool) -> dict[str, Literal["human", "web"]]:
    """The sources to export, by name, with their kinds."""
    kinds: dict[str, Literal["human", "web"]] = dict.fromkeys(node.sources, "web")
    if not human:
        return kinds
    sources = run_dir.config.of_kind("human")
    if not sources:
        raise ExportError("--human: the config of the run has no source of kind human; leave the option out")
    fetch = run_dir.nodes.get("fetch")
    if fetch is None or run_dir.ledger.node("fetch") is None:
        raise ExportError("--human: the run has not downloaded its human pairs; leave the option out")
    return kinds | dict.fromkeys(sources, "human")


def _count_shards(
    run_dir: RunDir, config: ExportConfig, named: VerdictSet | None
) -> tuple[dict[str, int], dict[str, Any]]:
    """{source: shards}, and what of each source determines the export.

    Args:
        named: the set of verdicts that decides, None for those of the run.
    """
    if named is not None:
        folders = [candidates_folder(config.round, s) for s, kind in config.kinds.items() if kind == "web"]
        judged = (record for folder in folders for record in run_dir.ledger.records(folder))
        check_current(run_dir.store, named, (r for r in judged if isinstance(r, CandidatesRecord)))
    shards: dict[str, int] = {}
    inputs: dict[str, Any] = {}
    texts = 0
    for source, kind in config.kinds.items():
        folder = corpus_folder(source) if kind == "human" else candidates_folder(config.round, source)
        digest, count = hashlib.sha256(), 0
        for record in run_dir.ledger.records(folder):
            digest.update("".join(file.sha256 for file in record.files).encode())
            if isinstance(record, CandidatesRecord):
                counts = record.candidates if named is None else {}
                texts += kept_texts(counts, config.origins)
            else:
                texts += record.texts
            count += 1
        shards[source] = count
        inputs[source] = {"kind": kind, "shards": count, "files": digest.hexdigest()}
    texts += 0 if named is None else kept_texts(named.verdicts, config.origins)
    if not texts:
        names = ", ".join(config.origins)
        raise ExportError(
            f"{run_dir.store.url.rstrip('/')}: round {config.round} has kept no text of origin {names}; "
            "there is nothing to export"
        )
    return shards, inputs


def kept_texts(verdicts: Mapping[str, Mapping[str, int]], origins: Iterable[str]) -> int:
    """Kept candidates of these origins.

    Args:
        verdicts: {origin: {"kept" | "dropped" | "unjudged": candidates}}.
    """
    return sum(verdicts.get(origin, {}).get("kept", 0) for origin in origins)


def text_weights(texts: TextsConfig) -> dict[str, Any]:
    """Weights by origin, and what they mean, as the record of an export has them."""
    return {**texts.weights, "per_image": texts.per_image}


def weighed_texts(texts: TextsConfig, form: Form) -> TextsConfig | None:
    """The same texts if their weights differ from text to text and the form can have them, else None."""
    is_plain = text_weights(texts) == text_weights(TextsConfig())
    return None if is_plain or form not in WITH_WEIGHTS else texts


def _places(run_dir: RunDir, kinds: Mapping[str, str]) -> dict[str, str]:
    """{source: folder or web address to which its relative urls are joined}."""
    places = {}
    for source in kinds:
        section = run_dir.config.sources[source]
        if section.base_url is not None:
            places[source] = section.base_url
        elif (folder := section.images or section.serve) is not None:
            places[source] = absolute_address(folder)
    return places


def _with_fields(schema: Any, fields: list[Any]) -> Any:
    for field in fields:
        if field.name not in schema.names:
            schema = schema.append(field)
    return schema
