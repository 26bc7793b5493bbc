"""The config as a whole: its sections, and what must hold between them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from capfilt.cluster.config import ClusterConfig
from capfilt.pipeline.config.sections import (
    CaptionerSection,
    EvaluateSection,
    ExportSection,
    FilterSection,
    ModelSection,
    PretrainSection,
    ReportSection,
    RunSection,
    Section,
    SourceSection,
    TrainSection,
)
from capfilt.pipeline.corpora.clipart import ClipartConfig
from capfilt.pipeline.corpora.shapes import ShapesConfig
from capfilt.stages.bootstrap.duplicates import DuplicatesConfig
from capfilt.stages.fetch.config import FetchConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""What a source may be called; the name becomes a folder in the run directory."""
TRAINING_SOURCE_KINDS = {"pretrain": ("human", "web"), "captioner": ("human",), "filter": ("human",)}
"""Kinds of source that each kind of training node reads."""


class Config(Section):
    """The config of a run."""

    run: RunSection
    """The run itself."""
    shapes: ShapesConfig | None = None
    """Make the procedural corpus of colored shapes in `shapes_dir` before the first node."""
    shapes_dir: str = "data/shapes"
    """Folder of the procedural corpus."""
    clipart: ClipartConfig | None = None
    """Make the clip-art corpus in `clipart_dir` before the first node."""
    clipart_dir: str = "data/clipart"
    """Folder of the clip-art corpus."""
    sources: dict[Annotated[str, Field(pattern=NAME)], SourceSection] = Field(min_length=1)
    """Inputs by name: letters, digits, `-` and `_`."""
    fetch: FetchConfig = FetchConfig()
    """How images are downloaded and stored."""
    duplicates: DuplicatesConfig = DuplicatesConfig()
    """Treatment of web images with many copies."""
    model: ModelSection = ModelSection()
    """The model that is pretrained."""
    pretrain: PretrainSection | None = None
    """Pretraining with the ITC, ITM and LM losses. Without it `captioner.checkpoint` and `filter.checkpoint`
    must be given, or nothing in the sections `captioner` and `filter`: then the run only downloads."""
    continue_training: bool = False
    """Start the pretraining of round r from the model of round r-1 instead of from scratch (paper, table 13:
    no gain)."""
    controls: tuple[Literal["human_only", "filter_only", "captioner_only"], ...] = ()
    """Models to compare with, pretrained in the first round with the settings of `pretrain` on other texts
    (paper, table 1): `human_only` on the human pairs, `filter_only` on human pairs and kept web texts,
    `captioner_only` on human pairs and all web and synthetic texts, whatever the filter says."""
    captioner: CaptionerSection = CaptionerSection()
    """The captioner."""
    filter: FilterSection = FilterSection()
    """The filter."""
    evaluate: EvaluateSection = EvaluateSection()
    """Evaluation of the pretrained models."""
    report: ReportSection = ReportSection()
    """The report page."""
    export: ExportSection | None = None
    """Write what the last round has kept in a form that trainers read, at the end of the run."""
    cluster: ClusterConfig = ClusterConfig()
    """The Ray cluster and the size of the stages."""

    def of_kind(self, *kinds: str) -> list[str]:
        """Names of the sources of these kinds, in the order of the config."""
        return [name for name, source in self.sources.items() if source.kind in kinds]

    @property
    def only_downloads(self) -> bool:
        """Whether the config asks for images and for no model: the only node is `fetch`."""
        # Compared by value: the config that a run writes into its directory has every section.
        has_models = (self.captioner, self.filter) != (CaptionerSection(), FilterSection())
        return self.pretrain is None and not has_models

    def held_out_for(self, round_: int) -> float:
        """The share of the web images from which the filter of a round is calibrated: those that no training
        has read; 0 if all are unseen, as for a given filter."""
        reads_web = self.pretrain is not None and set(self.trains_on("pretrain")) & set(self.of_kind("web"))
        given = round_ == 1 and self.filter.checkpoint is not None
        return 0.0 if given or not reads_web or self.pretrain is None else self.pretrain.hold_out

    def calibrates(self, round_: int) -> bool:
        """Whether the filter of a round is calibrated: if it is asked for, and if there are web images that
        no model was trained on."""
        reads_web = self.pretrain is not None and set(self.trains_on("pretrain")) & set(self.of_kind("web"))
        given = round_ == 1 and self.filter.checkpoint is not None
        return self.filter.calibrate.pairs > 0 and (given or not reads_web or self.held_out_for(round_) > 0)

    def trainings(self) -> dict[str, TrainSection]:
        """The training sections that are given, by kind of node."""
        found = {
            "pretrain": self.pretrain,
            "captioner": self.captioner.finetune,
            "filter": self.filter.finetune,
        }
        return {kind: section for kind, section in found.items() if section is not None}

    def trains_on(self, kind: str) -> list[str]:
        """Names of the sources that a node of this kind trains on, in the order of the config."""
        chosen = self.trainings()[kind].sources
        return [
            name for name in self.of_kind(*TRAINING_SOURCE_KINDS[kind]) if chosen is None or name in chosen
        ]

    @model_validator(mode="after")
    def _check_trainings(self) -> Config:
        depth = self.model.med.vision.depth
        divided = {name for name, source in self.sources.items() if source.parts > 1}
        unread = divided - set(self.trains_on("pretrain") if self.pretrain is not None else ())
        if unread:
            raise ValueError(f"sources.{min(unread)}.parts: no pretraining reads this source; remove the key")
        for kind, section in self.trainings().items():
            where = kind if kind == "pretrain" else f"{kind}.finetune"
            kinds = TRAINING_SOURCE_KINDS[kind]
            known = self.of_kind(*kinds)
            for name in section.sources or ():
                if name not in known:
                    raise ValueError(
                        f"{where}.sources: {name!r} is not a source of kind {' or '.join(kinds)}; "
                        f"allowed: {', '.join(known)}"
                    )
            if section.sources == ():
                raise ValueError(f"{where}.sources: the list is empty; allowed: {', '.join(known)}")
            if (section.checkpoint_layers or 0) > depth:
                raise ValueError(
                    f"{where}.checkpoint_layers: {section.checkpoint_layers} exceeds "
                    f"model.med.vision.depth {depth}"
                )
        return self

    @model_validator(mode="after")
    def _check_controls(self) -> Config:
        if len(set(self.controls)) < len(self.controls):
            raise ValueError(f"controls: {', '.join(self.controls)}: name each control once")
        if self.controls and self.pretrain is None:
            raise ValueError("controls: are pretrained with the settings of pretrain; give that section")
        if self.controls and not self.of_kind("test"):
            raise ValueError("controls: are compared on held-out images; give a source of kind test")
        if "human_only" in self.controls and not set(self.trains_on("pretrain")) & set(self.of_kind("human")):
            raise ValueError("controls: human_only needs a source of kind human among pretrain.sources")
        return self

    @model_validator(mode="after")
    def _check_sources_and_roles(self) -> Config:
        if not self.of_kind("web"):
            raise ValueError("sources: no source of kind web; there is nothing to caption and filter")
        if self.only_downloads:
            if self.run.rounds > 1:
                raise ValueError(
                    f"run.rounds: {self.run.rounds}, but there is nothing to train or to caption with; give "
                    "pretrain, captioner and filter, or remove the key to download only"
                )
            return self
        for name in ("captioner", "filter"):
            section: CaptionerSection | FilterSection = getattr(self, name)
            first = section.checkpoint is None
            if (first or self.run.rounds > 1) and (section.finetune is None or self.pretrain is None):
                raise ValueError(
                    f"{name}: give {name}.checkpoint, or both pretrain and {name}.finetune to train one"
                    + (" (rounds after the first always train)" if not first else "")
                )
        self._check_automatic_threshold()
        if self.pretrain is not None and not self.of_kind("human"):
            raise ValueError("sources: training needs a source of kind human (clean pairs)")
        return self

    def _check_automatic_threshold(self) -> None:
        """Check that every round can be calibrated if a threshold depends on it."""
        if not self.filter.judge.is_automatic:
            return
        if self.filter.calibrate.pairs == 0:
            raise ValueError(
                "filter.judge.threshold: auto comes from a calibration, but filter.calibrate.pairs is 0; "
                "raise it, or set the threshold to a number"
            )
        for round_ in range(1, self.run.rounds + 1):
            if not self.calibrates(round_):
                raise ValueError(
                    f"filter.judge.threshold: auto needs web images that no model before filter.{round_} was "
                    "trained on; set pretrain.hold_out (for example 0.1), or set the threshold to a number"
                )
