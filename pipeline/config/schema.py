"""The config as a whole: its sections, and what must hold between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from capfilt.cluster.config import ClusterConfig
from capfilt.pipeline.config.checks import (
    check_automatic_threshold,
    check_candidates,
    check_controls,
    check_hashes,
    check_tasks,
    check_texts,
    check_variants,
)
from capfilt.pipeline.config.former_keys import move_former_keys
from capfilt.pipeline.config.sections import (
    NO_CAPTIONER,
    CaptionerSection,
    EvaluateSection,
    ExportSection,
    FilterSection,
    ModelSection,
    PretrainSection,
    ReportSection,
    RunSection,
    SourceSection,
)
from capfilt.pipeline.config.tasks import TaskSection
from capfilt.pipeline.config.training import RoleSection, Section, TrainSection
from capfilt.pipeline.corpora.clipart import ClipartConfig
from capfilt.pipeline.corpora.shapes import ShapesConfig
from capfilt.stages.bootstrap.duplicates import DuplicatesConfig
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.foreign.config import CandidatesConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""What a source may be called; the name becomes a folder in the run directory."""
TRAINING_SOURCE_KINDS = {"pretrain": ("human", "web"), "captioner": ("human",), "filter": ("human",)}
"""Kinds of source that each training section can name."""


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
    sources: dict[Annotated[str, Field(pattern=NAME)], SourceSection] = Field(default_factory=dict)
    """Inputs by name: letters, digits, `-` and `_`. A run that only does downstream tasks has none."""
    candidates: dict[Annotated[str, Field(pattern=NAME)], CandidatesConfig] = Field(default_factory=dict)
    """Captions that somebody else has written, by the name of their captioner; they are judged as synthetic
    texts."""
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
    shared_finetune: bool = False
    """Finetune one model as captioner and filter, with the settings of `filter.finetune`, the losses ITC, ITM
    and LM, and the prompt of the captioner's finetuning (paper, table 4: the filter drops less of its own
    texts, and the result is worse)."""
    controls: tuple[
        Literal["human_only", "filter_only", "captioner_only", "web_repeated", "itc_top"], ...
    ] = ()
    """Models to compare with, pretrained in the first round with the settings of `pretrain` on other texts
    (paper, tables 1 and 12): `human_only` on the human pairs, `filter_only` on human pairs and kept web
    texts, `captioner_only` on human pairs and all web and synthetic texts, whatever the filter says,
    `web_repeated` on human pairs and all web texts, repeated to as many pairs as the filter has kept,
    `itc_top` on human pairs and the web texts with the greatest ITC similarities, as many as the filter has
    kept of them."""
    captioner: CaptionerSection = CaptionerSection()
    """The captioner."""
    filter: FilterSection = FilterSection()
    """The filter."""
    evaluate: EvaluateSection = EvaluateSection()
    """Evaluation of the pretrained models."""
    tasks: dict[Annotated[str, Field(pattern=NAME)], TaskSection] = Field(default_factory=dict)
    """Downstream tasks by name: finetuned from a pretrained model of the run or from a checkpoint, and
    evaluated."""
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
    def captions_itself(self) -> bool:
        """Whether the run has a captioner of its own."""
        return self.captioner.checkpoint != NO_CAPTIONER

    def described_source(self, captions: CandidatesConfig) -> str:
        """The source whose images captions from elsewhere describe."""
        return captions.source or self.of_kind("web")[0]

    @property
    def described_sources(self) -> list[str]:
        """Web sources for whose images there are captions from elsewhere."""
        described = {self.described_source(each) for each in self.candidates.values()}
        return [name for name in self.of_kind("web") if name in described]

    def is_read_before_join(self, source: str) -> bool:
        """Whether the images of a source have to be read before captions find them: urls and ids of images in
        tars are in the tars."""
        joins = {c.join for c in self.candidates.values() if self.described_source(c) == source}
        return bool(joins) and self.sources[source].has_tars

    @property
    def only_tasks(self) -> bool:
        """Whether the config has no corpus, and only does downstream tasks with given checkpoints."""
        return not self.sources

    @property
    def last_round(self) -> int:
        """The last round that has a report."""
        return 0 if self.only_tasks else self.run.rounds

    @property
    def pretrained_rounds(self) -> list[int]:
        """Rounds that have a pretrained model; 0 is the one before the first round."""
        if self.pretrain is None:
            return []
        return list(range(1 if self.gives_both_models else 0, self.run.rounds + 1))

    @property
    def gives_both_models(self) -> bool:
        """Whether captioner and filter of the first round are given, so that nothing is pretrained before."""
        given = self.captioner.checkpoint is not None and self.filter.checkpoint is not None
        return self.run.rounds > 0 and given

    @property
    def only_downloads(self) -> bool:
        """Whether the config asks for images and for no model: the only node is `fetch`."""
        # Compared by value: the config that a run writes into its directory has every section.
        has_models = (self.captioner, self.filter) != (CaptionerSection(), FilterSection())
        return self.pretrain is None and not has_models and not self.only_tasks

    def held_out_for(self, round_: int) -> float:
        """The share of the web images from which the filter of a round is calibrated: those that no training
        has read; 0 if all are unseen, as for a given filter."""
        return 0.0 if self.pretrain is None or self._all_web_unseen(round_) else self.pretrain.hold_out

    def calibrates(self, round_: int) -> bool:
        """Whether the filter of a round is calibrated: if it is asked for, and if there are web images that
        no model was trained on."""
        unseen = self._all_web_unseen(round_) or self.held_out_for(round_) > 0
        return self.filter.calibrate.pairs > 0 and unseen

    def _all_web_unseen(self, round_: int) -> bool:
        """Whether the filter of a round comes from no model that this run has pretrained on web images."""
        if self.pretrain is None or (round_ == 1 and self.filter.checkpoint is not None):
            return True
        return set(self.trains_on("pretrain")).isdisjoint(self.of_kind("web"))

    @property
    def shared_section(self) -> RoleSection:
        """The settings of a finetuning as captioner and filter in one."""
        captioner, judge = self.captioner.finetune, self.filter.finetune
        assert captioner is not None and judge is not None, "checked with shared_finetune"
        prompt, smoothing = captioner.objective.prompt, captioner.objective.label_smoothing
        objective = replace(
            judge.objective, losses=("itc", "itm", "lm"), prompt=prompt, label_smoothing=smoothing
        )
        return judge.model_copy(update={"objective": objective})

    def training(self, kind: str) -> TrainSection:
        """The settings of the trainings of a kind of node: "pretrain", "captioner", "filter" or "shared"."""
        return self.shared_section if kind == "shared" else self.trainings()[kind]

    def trainings(self) -> dict[str, TrainSection]:
        """The training sections that are given, by their kind."""
        found = {
            "pretrain": self.pretrain,
            "captioner": self.captioner.finetune,
            "filter": self.filter.finetune,
        }
        return {kind: section for kind, section in found.items() if section is not None}

    def trains_on(self, kind: str) -> list[str]:
        """Names of the sources that a node of this kind trains on, in the order of the config. A captioner
        reads the web sources beside, if it has a `web_share`."""
        chosen = self.training(kind).sources
        known = self.of_kind(*TRAINING_SOURCE_KINDS["filter" if kind == "shared" else kind])
        return [name for name in known if chosen is None or name in chosen]

    @model_validator(mode="before")
    @classmethod
    def _read_former_keys(cls, data: Any) -> Any:
        return move_former_keys(data) if isinstance(data, dict) else data

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

    @field_validator("captioner", mode="before")
    @classmethod
    def _read_none(cls, value: Any) -> Any:
        return {"checkpoint": NO_CAPTIONER} if value == NO_CAPTIONER else value

    @field_validator("candidates", mode="before")
    @classmethod
    def _read_list(cls, value: Any) -> Any:
        """A list of sections with a `name` each, as a mapping."""
        if not isinstance(value, list) or not all(
            isinstance(each, dict) and "name" in each for each in value
        ):
            return value
        names = [each["name"] for each in value]
        if len(set(map(str, names))) < len(names):
            raise ValueError(f"two captioners have one name ({', '.join(map(str, names))}); rename one")
        return {each["name"]: {k: v for k, v in each.items() if k != "name"} for each in value}

    @model_validator(mode="after")
    def _check_sources_and_roles(self) -> Config:
        if self.only_tasks:
            return self  # check_tasks says what such a config may have
        if not self.of_kind("web"):
            raise ValueError("sources: no source of kind web; there is nothing to caption and filter")
        if self.only_downloads:
            if self.run.rounds > 1:
                raise ValueError(
                    f"run.rounds: {self.run.rounds}, but there is nothing to train or to caption with; give "
                    "pretrain, captioner and filter, or remove the key to download only"
                )
            return self
        if self.run.rounds == 0:
            if self.pretrain is None or not self.of_kind("test"):
                raise ValueError(
                    "run.rounds: 0 only pretrains and evaluates a model; give pretrain and a source of "
                    "kind test"
                )
            if self.controls:
                raise ValueError("controls: belong to round 1, but run.rounds is 0; remove one of them")
            return self
        if not self.captions_itself and self.captioner.finetune is not None:
            raise ValueError("captioner: checkpoint is none, so there is nothing to finetune; remove one key")
        for name in ("captioner", "filter") if self.captions_itself else ("filter",):
            section: CaptionerSection | FilterSection = getattr(self, name)
            first = section.checkpoint is None
            if (first or self.run.rounds > 1) and (section.finetune is None or self.pretrain is None):
                raise ValueError(
                    f"{name}: give {name}.checkpoint, or both pretrain and {name}.finetune to train one"
                    + (" (rounds after the first always train)" if not first else "")
                )
        check_automatic_threshold(self)
        if self.pretrain is not None and not self.of_kind("human"):
            raise ValueError("sources: training needs a source of kind human (clean pairs)")
        return self

    @model_validator(mode="after")
    def _check_relations(self) -> Config:
        checks = (
            check_candidates,
            check_hashes,
            check_controls,
            check_tasks,
            check_texts,
            check_variants,
        )
        for check in checks:
            check(self)
        return self
