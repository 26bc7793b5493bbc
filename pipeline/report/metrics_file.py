"""The format of `reports/<round>/metrics.json`: one model that its writer and its readers share."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from capfilt.pipeline.evaluation.calibration.result import Calibration
from capfilt.pipeline.evaluation.filter_quality import FilterQuality
from capfilt.pipeline.node import ValidationResult
from capfilt.stages.errors import UserError
from capfilt.stages.storage.layout import DEFAULT_VERDICTS, metrics_file
from capfilt.stages.storage.store import Store

VERSION = 1
"""Raise it when a key changes its meaning or goes; a new optional key does not need it."""

Scores = dict[str, dict[str, float]]
"""{model: {metric: percent}}; models are "pretrain.0", "pretrain.1", … and controls, such as "human_only"."""


Kind = Literal["corpus", "candidates"]
"""What shards hold."""


class MetricsError(UserError):
    """A metrics.json cannot be read; the message is one line that names the file and what to do."""


class Funnel(BaseModel):
    """How many rows of the web sources are left after each step."""

    model_config = ConfigDict(frozen=True)

    rows: int
    """Rows of the manifests."""
    stored: int
    """Images that were downloaded and stored."""
    different: int
    """Stored images with different bytes."""
    kept_images: int
    """Of these, images with a kept text."""
    kept_pairs: int
    """Kept texts, each with its image."""


class StageTime(BaseModel):
    """The work of one stage, summed over the commit records of the shards."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    stage: str
    shards: int
    images: int
    """Rows with status success."""
    seconds: float
    """Seconds of the processes that did the work, added up."""
    efficiency: float | None = None
    """Of a stage with a model, see `StageEfficiency`; None if the last command processed too few shards."""
    model_images_per_second: float | None = None
    """Images per second of the model alone, in one process; None likewise."""

    @property
    def images_per_second(self) -> float | None:
        """Of one process; None when the time was too short to measure."""
        return self.images / self.seconds if self.seconds else None


class RoundMetrics(BaseModel):
    """The numbers of one round. Missing parts of a file are empty, unknown keys are ignored."""

    model_config = ConfigDict(frozen=True)

    version: int = Field(default=VERSION, ge=1, le=VERSION)
    """Files written before there was a version have the keys of version 1."""
    round: int
    verdicts: str = DEFAULT_VERDICTS
    """The set of verdicts that the numbers are of."""
    counts: dict[str, int] = {}
    """Rows of the corpus by status."""
    noise_ratio: dict[str, float | None] = {}
    """Dropped / judged candidates by origin; None when no candidate was judged."""
    noise_ratio_by_source: dict[str, dict[str, float | None]] = {}
    """The same by source and origin."""
    noise_ratio_by_captioner: dict[str, dict[str, float | None]] = {}
    """By source and captioner; empty with one captioner that is a model of the run."""
    planted_noise: float | None = None
    """Share of noise among the judged web texts with known truth, to be compared with the noise ratio of the
    web texts. None without known truth."""
    filter: FilterQuality | None = None
    """How well the filter found the planted noise; None without known truth."""
    calibration: Calibration | None = None
    """Estimate of the noise, and suggested threshold; None without a calibration."""
    retrieval: Scores = {}
    caption: Scores = {}
    retrieval_by_source: dict[str, Scores] = {}
    """The retrieval scores of the queries of each test source, in the gallery of all; empty with one test
    source."""
    caption_by_source: dict[str, Scores] = {}
    """The caption scores on the images of each test source."""
    tasks: Scores = {}
    """{downstream task: {figure: percent}}: the metric of the task, "chance", "start" and other figures, of
    the last round that the task belongs to."""
    tasks_by_start: dict[str, Scores] = {}
    """{downstream task: {model it started from: the same figures}}, to compare models."""
    seconds: dict[str, float] = {}
    """Duration of each node."""
    validation: dict[str, ValidationResult] = {}
    """Of each training that was validated."""
    funnel: Funnel | None = None
    """None in files of versions before there was a funnel."""
    stages: list[StageTime] = []
    """Time of each stage."""
    alarms: list[str] = []
    """Signs of a captioner that collapses, or of a filter that agrees with its captioner."""


def write_metrics(store: Store, metrics: RoundMetrics) -> None:
    """Write the metrics.json of their round into a run directory."""
    store.put_json(metrics_file(metrics.round, metrics.verdicts), metrics.model_dump())


def read_metrics(store: Store, round: int, verdicts: str = DEFAULT_VERDICTS) -> RoundMetrics | None:
    """Read the metrics.json of a round, by a set of verdicts, from a run directory; None when there is none.

    Raises:
        MetricsError: the file is damaged, or was written in a later version of the format.
        StoreError: the store cannot be read.
    """
    name = metrics_file(round, verdicts)
    data = store.find(name)
    if data is None:
        return None
    try:
        return RoundMetrics.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise MetricsError(
            f"{store.address(name)}: not a metrics file of version {VERSION} or earlier "
            f"({place}: {first['msg']}); write it again with `capfilt report`"
        ) from error
