"""What a report is made of, and the reports of earlier rounds that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from capfilt.pipeline.evaluation.calibration.result import Calibration
from capfilt.pipeline.node import ValidationResult
from capfilt.pipeline.report.metrics_file import (
    MetricsError,
    RoundMetrics,
    Scores,
    StageTime,
    read_metrics,
)
from capfilt.pipeline.report.tables import Row
from capfilt.stages.rows import CANDIDATE_SCHEMA
from capfilt.stages.storage.layout import DEFAULT_VERDICTS, report_folder
from capfilt.stages.storage.store import DECODE_ERRORS, Store


class _Diversity(BaseModel):
    """`TextDrift`; unknown keys are kept."""

    model_config = ConfigDict(extra="allow")

    texts: int
    distinct_1: float
    distinct_2: float
    mean_words: float
    duplicate_share: float


class _Drift(BaseModel):
    """Content of drift.json; unknown keys are kept."""

    model_config = ConfigDict(extra="allow")

    texts: dict[str, _Diversity | None] = {}
    acceptance: dict[str, float | None] = {}
    alarms: list[str] = []


@dataclass(frozen=True)
class RoundReport:
    """The numbers of one round that later rounds are compared with."""

    metrics: RoundMetrics
    drift: Mapping[str, Any]
    """Content of drift.json: {"round", "texts": {origin: TextDrift}, "acceptance": {origin: share},
    "alarms"}."""
    groups: Mapping[str, list[Row]] = field(default_factory=dict)
    """Verdicts by each property that was asked for."""


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Everything that a report shows, or where the report reads it."""

    run: str
    """Name or address of the run, for the title."""
    round: int
    candidate_files: Sequence[str]
    """Committed candidate files of this round: local paths or fsspec URLs."""
    corpus_files: Sequence[str]
    """Committed row files of the corpus of every source."""
    read_image: Callable[[str, str], bytes | None]
    """(source, key) → the stored image, encoded; None when there is none. Called only for shown images."""
    retrieval: Scores = field(default_factory=dict)
    """Retrieval scores of the pretrained models."""
    caption: Scores = field(default_factory=dict)
    """Caption scores of the pretrained models."""
    retrieval_by_source: Mapping[str, Scores] = field(default_factory=dict)
    """The retrieval scores by test source."""
    caption_by_source: Mapping[str, Scores] = field(default_factory=dict)
    """The caption scores by test source."""
    tasks_by_start: Mapping[str, Scores] = field(default_factory=dict)
    """Figures of the downstream tasks: {task: {model it started from: scores}}, earlier rounds first."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Duration of each node."""
    validation: Mapping[str, ValidationResult] = field(default_factory=dict)
    """Of each training that was validated."""
    config: Mapping[str, str] = field(default_factory=dict)
    """Settings to show, in order: label → value."""
    previous: Sequence[RoundReport] = ()
    """Reports of earlier rounds."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """fsspec options of the filesystem that holds the files."""
    duplicates: Sequence[Row] = ()
    """The most copied images, in the form of `pipeline.nodes.duplicates.most_copied_images`."""
    examples_per_section: int = 8
    """Images in each group of examples."""
    web_sources: Sequence[str] = ()
    """Sources whose rows count in the funnel."""
    calibration: Calibration | None = None
    """What the calibration of the round's filter has found."""
    stages: Sequence[StageTime] = ()
    """Time of each stage."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """How the page was made, in order: label → value."""
    verdicts: str = DEFAULT_VERDICTS
    """The set of verdicts that is shown."""
    policy: str = ""
    """Its policy in words; empty for the verdicts of the run."""
    verdict_files: Sequence[str] = ()
    """Files of the set, one for each file of candidates; () for the verdicts of the run."""
    by: Sequence[str] = ()
    """Properties of the candidates by which verdicts are shown (`pipeline.evaluation.groups`)."""
    candidate_schema: pa.Schema = CANDIDATE_SCHEMA
    """Columns of the candidates."""
    rejudge: str = ""
    """Shell command that makes a set of verdicts by another threshold."""
    query: str = ""
    """Shell command that prints the noise ratios of the page."""


def read_previous_reports(store: Store, round: int, verdicts: str = DEFAULT_VERDICTS) -> list[RoundReport]:
    """Read the reports of the rounds before `round`, by a set of verdicts, from a run directory, in order.

    A round without a report is left out.

    Raises:
        MetricsError: a metrics.json or drift.json cannot be read.
    """
    found = []
    for number in range(round):
        metrics = read_metrics(store, number, verdicts)
        if metrics is not None:
            found.append(RoundReport(metrics, _read_drift(store, number, verdicts)))
    return found


def _read_drift(store: Store, round: int, verdicts: str) -> Mapping[str, Any]:
    """The drift.json of a round; empty if there is none."""
    name = f"{report_folder(round, verdicts)}/drift.json"
    try:
        drift = store.find_json(name)
        if drift is None:
            return {}
        return _Drift.model_validate(drift).model_dump(exclude_unset=True)
    except (*DECODE_ERRORS, ValidationError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise MetricsError(
            f"{store.address(name)}: damaged ({problem}); write it again with `capfilt report`, or remove it"
        ) from error
