"""The node that writes the report of a round: noise ratios, metrics and the page."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from capfilt import __version__
from capfilt.cluster.chain.efficiency import StageEfficiency
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.commands import (
    duckdb_command,
    noise_ratio_query,
    rejudge_example,
    resume_command,
)
from capfilt.pipeline.evaluation.groups import check_properties
from capfilt.pipeline.node import Node, NodeKind, NodeResult, ValidationResult, member_names
from capfilt.pipeline.rundir.contents.round_files import find_round_files
from capfilt.pipeline.rundir.ledger import NodeRecord
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.bootstrap.filter import FilterConfig
from capfilt.stages.rows import shard_of_key
from capfilt.stages.shards.tars import read_tar_images
from capfilt.stages.storage.layout import (
    DEFAULT_VERDICTS,
    candidates_folder,
    corpus_folder,
    corpus_shard,
    report_folder,
)
from capfilt.stages.storage.store import Store
from capfilt.stages.verdicts.sets import VerdictSet

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.report.metrics_file import RoundMetrics, Scores
    from capfilt.pipeline.rundir.fingerprints import Fingerprints
    from capfilt.stages.shards.records import CommitRecord


REPORT_FILES = ("metrics.json", "report.html", "noise.parquet", "statuses.parquet", "hosts.parquet")
"""Files that every report has."""


def _outputs(node: Node) -> list[str]:
    return [report_folder(node.round)]


def _required_files(node: Node) -> list[str]:
    return [f"{report_folder(node.round)}/{name}" for name in REPORT_FILES]


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    return {"report": fingerprints.config_data["report"], "name": fingerprints.config.run.name}


def run_report(context: RunContext, node: Node) -> NodeResult:
    """Write the report of the node's round."""
    context.progress.describe(node.name, "reading the candidates and writing the pages")
    metrics = write_report(context.run_dir, node.round)
    ratios = ", ".join(
        f"{origin} {'-' if ratio is None else f'{ratio:.3f}'}"
        for origin, ratio in metrics.noise_ratio.items()
    )
    return NodeResult(f"noise ratio {ratios}", tuple(node.outputs))


def write_report(
    run_dir: RunDir, round_: int, verdicts: str = DEFAULT_VERDICTS, by: Sequence[str] = ()
) -> RoundMetrics:
    """Write `reports/<round>/` and return its metrics.

    Args:
        verdicts: the set of verdicts to show; a named one has the folder `reports/<round>/verdicts/<name>/`.
        by: properties of the candidates by which verdicts are shown.

    Raises:
        GroupError: the candidates have no such property; nothing is written.
        VerdictSetError: the round has no such set, or its candidates have been replaced since.
    """
    from capfilt.pipeline.nodes.duplicates import most_copied_images
    from capfilt.pipeline.report.build import build_report
    from capfilt.pipeline.report.inputs import ReportInputs, read_previous_reports
    from capfilt.pipeline.report.stage_times import sum_stage_times

    config, store = run_dir.config, run_dir.store
    scores = collect_scores(run_dir, round_)
    files = find_round_files(run_dir, round_, verdicts, carried=bool(by))
    if by:
        check_properties(by, files.schema)
    place, found = store.url.rstrip("/"), files.verdict_set
    return build_report(
        ReportInputs(
            run=config.run.name,
            round=round_,
            candidate_files=files.candidates,
            corpus_files=files.corpus,
            read_image=ImageReader(store),
            retrieval=scores["retrieval"],
            caption=scores["caption"],
            retrieval_by_source=scores_by_source(scores, "retrieval"),
            caption_by_source=scores_by_source(scores, "caption"),
            tasks_by_start=collect_task_scores(run_dir, round_),
            seconds={name: record.seconds for name, record in _records_of_nodes(run_dir, round_).items()},
            validation=collect_validations(_records_of_nodes(run_dir, round_)),
            calibration=run_dir.calibration(round_),
            config=summarize_config(config, store, round_)
            | _name_captioners(run_dir, round_)
            | _summarize_set(found),
            verdicts=verdicts,
            by=by,
            candidate_schema=files.schema,
            policy="" if found is None else str(found.policy),
            verdict_files=files.verdicts,
            rejudge=rejudge_example(place),
            web_sources=config.of_kind("web"),
            stages=sum_stage_times(_records(run_dir, round_), _efficiency(run_dir, round_)),
            origin=describe_origin(store),
            query=duckdb_command(noise_ratio_query(place, round_, verdicts)) if round_ else "",
            previous=read_previous_reports(store, round_, verdicts),
            storage_options=files.storage_options,
            duplicates=most_copied_images(config, store),
            examples_per_section=max(1, config.report.examples // 4),
        ),
        store,
    )


def _summarize_set(found: VerdictSet | None) -> dict[str, str]:
    return {} if found is None else {"threshold": f"that of the verdict set {found.name}: {found.policy}"}


def collect_scores(run_dir: RunDir, round_: int) -> dict[str, Scores]:
    """Scores of every model up to this round, by task and by "<test source>/<task>"; tasks are "retrieval"
    and "caption"."""
    scores: dict[str, Scores] = {"retrieval": {}, "caption": {}}
    for name, node in run_dir.nodes.items():
        record = run_dir.ledger.node(name)
        if record is not None and node.round <= round_:
            for model, result in (record.results or {}).items():
                parts = {"": result} | {f"{s}/": r for s, r in result.get("by_source", {}).items()}
                for prefix, part in parts.items():
                    for task in ("retrieval", "caption"):
                        scores.setdefault(f"{prefix}{task}", {})[model] = part[task]
    return scores


def collect_task_scores(run_dir: RunDir, round_: int) -> dict[str, Scores]:
    """{downstream task: {model it started from: figures}} up to this round."""
    found: dict[str, Scores] = {}
    for name, node in run_dir.nodes.items():
        record = run_dir.ledger.node(name)
        if record is not None and record.task is not UNSET and node.round <= round_:
            found.setdefault(record.task["name"], {})[record.task["start"]] = record.task["scores"]
    return found


def scores_by_source(scores: dict[str, Scores], task: str) -> dict[str, Scores]:
    """{test source: scores} of a task."""
    suffix = f"/{task}"
    return {key.removesuffix(suffix): of for key, of in scores.items() if key.endswith(suffix)}


def _records_of_nodes(run_dir: RunDir, round_: int) -> dict[str, NodeRecord]:
    """The record of every node up to this round that is done."""
    nodes = [name for name, node in run_dir.nodes.items() if node.round <= round_]
    records = {name: run_dir.ledger.node(name) for name in nodes}
    return {name: record for name, record in records.items() if record is not None}


def collect_validations(records: Mapping[str, NodeRecord]) -> dict[str, ValidationResult]:
    """{node: how its training was validated}, of the nodes that say so."""
    return {name: each.validation for name, each in records.items() if each.validation is not UNSET}


def _efficiency(run_dir: RunDir, round_: int) -> dict[str, StageEfficiency]:
    """What the bootstrap of the round has measured; {} where it measured nothing."""
    record = run_dir.ledger.node(f"bootstrap.{round_}")
    found = {} if record is None else record.counts.get("efficiency", {})
    return {stage: msgspec.convert(values, StageEfficiency) for stage, values in found.items()}


def _records(run_dir: RunDir, round_: int) -> Iterator[CommitRecord]:
    """The commit records of the corpus and of this round's candidates."""
    web = run_dir.config.of_kind("web")
    for folder in [corpus_folder(source) for source in run_dir.config.sources]:
        yield from run_dir.ledger.records(folder)
    for folder in [candidates_folder(round_, source) for source in web]:
        yield from run_dir.ledger.records(folder)


def describe_origin(store: Store) -> dict[str, str]:
    """What the report says about how it was made: label → value. A command line contains no credential,
    because configs with one are refused."""
    program = Path(sys.argv[0]).name
    return {
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "by": f"capfilt {__version__}",
        "command": shlex.join(["capfilt" if program == "__main__.py" else program, *sys.argv[1:]]),
        "run directory": store.url,
        "to repeat": resume_command(store.url, []),
    }


def summarize_config(config: Config, store: Store, round_: int) -> dict[str, str]:
    """What the report shows of the config: label → value."""
    sampling = config.captioner.generate.sampling
    is_first = round_ == 1
    nucleus = f"top_p {sampling.top_p:g}" + (f", top_k {sampling.top_k}" if sampling.top_k else "")
    if round_ == 0:
        return {"seed": str(config.run.seed)}
    sizes = {"captioner": config.captioner.ensemble, "filter": config.filter.ensemble}
    trained = {role: ", ".join(member_names(role, round_, size)) for role, size in sizes.items()}
    if config.shared_finetune:
        trained = dict.fromkeys(trained, f"shared.{round_}")
    return {
        "captioner": (
            (config.captioner.checkpoint if is_first or not config.captions_itself else None)
            or trained["captioner"]
        ),
        "filter": (config.filter.checkpoint if is_first else None) or trained["filter"],
        "threshold": _describe_thresholds(config.filter.judge),
        "decoding": f"nucleus, {nucleus}" if sampling.strategy == "nucleus" else sampling.strategy,
        "captions per image": str(config.captioner.generate.captions_per_image),
        "seed": str(config.run.seed),
    }


def _name_captioners(run_dir: RunDir, round_: int) -> dict[str, str]:
    """{node: digest} of the captioners of an ensemble, which the candidates name by their digests."""
    size = run_dir.config.captioner.ensemble
    names = member_names("captioner", round_, size) if round_ and size > 1 else []
    return {name: run_dir.fingerprints.of(name) for name in names}


def _describe_thresholds(judge: FilterConfig) -> str:
    values = {origin: at if isinstance(at, str) else f"{at:g}" for origin, at in judge.by_origin.items()}
    if len(set(values.values())) == 1:
        return values["web"]
    return ", ".join(f"{origin} {value}" for origin, value in values.items())


class ImageReader:
    """(source, key) → bytes of the stored image, None if there is none. Keeps the last few tars in memory."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._cached_tar = lru_cache(maxsize=4)(self._read_tar)

    def __call__(self, source: str, key: str) -> bytes | None:
        return self._cached_tar(source, shard_of_key(key)).get(key)

    def _read_tar(self, source: str, shard: int) -> dict[str, bytes]:
        name = corpus_shard(source, shard).tar
        return read_tar_images(self.store.read(name)) if self.store.exists(name) else {}


REPORT = NodeKind(
    "report",
    outputs=_outputs,
    inputs=_inputs,
    run=run_report,
    required_files=_required_files,
    summarizes=True,
)
