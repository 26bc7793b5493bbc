"""The whole config tree. Defaults of a stage or model stand beside the code that owns them, and only there."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from capfilt.cluster.config import ClusterConfig, WorkersConfig
from capfilt.models.config import AugmentConfig, MedConfig, ObjectiveConfig, OptimizerConfig
from capfilt.pipeline.corpora.clipart import ClipartConfig
from capfilt.pipeline.corpora.shapes import ShapesConfig
from capfilt.stages.bootstrap.caption import CaptionConfig
from capfilt.stages.bootstrap.duplicates import DuplicatesConfig
from capfilt.stages.bootstrap.filter import FilterConfig
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.manifest.config import ManifestConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
_TRAINED = {"pretrain": ("human", "web"), "captioner": ("human",), "filter": ("human",)}
"""Kinds of source that each kind of node trains on."""


class Section(BaseModel):
    """Base of every section: nothing unknown passes, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RunSection(Section):
    """What a run is called and where it lives."""

    dir: str = Field(min_length=1)
    """Run directory: local path or any fsspec URL (s3://, gs://)."""
    name: str = "capfilt"
    """Name for reports."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes every random draw: captions, data order, augmentation, initial weights."""
    rounds: Annotated[int, Field(ge=1)] = 1
    """Bootstrapping rounds."""
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of a source's rows that may fail before the node counts as failed (dead links are the rule)."""
    grace_seconds: Annotated[float, Field(ge=0)] = 30
    """Time for what is in flight after SIGINT or SIGTERM (`ray job stop` itself waits 3 s before it kills; its
    RAY_JOB_STOP_WAIT_TIME_S says otherwise)."""
    storage_options: dict[str, Any] = {}
    """fsspec options for `dir` (endpoint_url, profile, anon), used for checkpoints on the same kind of store too.
    Credentials belong in the environment or a profile and are refused here."""


class SourceSection(Section):
    """One named input: a manifest and what its rows are."""

    kind: Literal["human", "web", "test"]
    """`human`: clean, captioned by people, never judged; `web`: noisy, captioned and filtered; `test`: clean and
    held out, for evaluation only."""
    rows: ManifestConfig
    """The manifest and its columns."""
    images: str | None = None
    """Folder (any fsspec URL) that relative urls of the manifest are files in."""
    base_url: str | None = None
    """Address that relative urls of the manifest are joined to."""
    serve: str | None = None
    """Local folder that the driver serves over HTTP while it fetches; relative urls are joined to it. For
    demonstrations: the real fetch stage runs without a network."""
    fetch: FetchConfig | None = None
    """Fetch settings of this source alone, instead of the run's."""
    parts: Annotated[int, Field(ge=1)] = 1
    """Web sources: equal parts the shards are dealt into; each epoch of a pretraining has one, in turn (paper: 5
    for LAION, one fifth per epoch)."""

    @model_validator(mode="after")
    def _parts_of_web(self) -> SourceSection:
        if self.parts > 1 and self.kind != "web":
            raise ValueError(
                f"parts is {self.parts}, but only a source of kind web trains in parts; remove the key"
            )
        return self

    @model_validator(mode="after")
    def _one_place(self) -> SourceSection:
        given = [n for n in ("images", "base_url", "serve") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} given: relative urls have one place; keep one of them")
        return self


class ModelSection(Section):
    """The MED that is pretrained: its size and what it starts from."""

    med: MedConfig = MedConfig()
    """Sizes; the vocabulary's is set by the tokenizer."""
    vision_start: str | None = None
    """timm model name or local safetensors file for the image encoder; fresh weights when not given."""
    text_start: str | None = None
    """BERT checkpoint folder for the text transformer; fresh weights when not given."""
    text_start_layers: Literal["all", "first"] = "all"
    """`first`: of a BERT that is deeper than the text transformer the lowest layers are taken. `all`: they must be
    as many."""
    tokenizer: str | None = None
    """Folder with a WordPiece tokenizer (vocab.txt or tokenizer.json); by default the text start's, else one is
    trained on the corpus texts."""
    vocab_size: Annotated[int, Field(ge=64)] = 30522
    """Largest vocabulary when one is trained."""

    @model_validator(mode="after")
    def _pretrains(self) -> ModelSection:
        if self.med.parts in ("vqa", "nlvr"):
            raise ValueError(
                f'parts "{self.med.parts}" is made by finetuning alone; leave parts out, a run pretrains'
            )
        return self


class TrainSection(Section):
    """One training: objective, optimizer, data, workers."""

    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    augment: AugmentConfig = AugmentConfig()
    batch_size: Annotated[int, Field(ge=2)] = 2400
    """Pairs per step over all workers (paper: 2,880 for ViT-B, 2,400 for ViT-L)."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Pieces of the batch that are run one after another before an optimizer step, to save memory. ITC and ITM
    compare within a piece (and with the queue)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products; weights and losses stay float32. `auto`: bfloat16 on GPUs that have it."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the pairs (paper: 20 for pretraining). Give this or `steps`."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimizer steps."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the square input in pixels; the start's own when not given."""
    window_shards: Annotated[int, Field(ge=1)] = 16
    """Shards whose pairs are shuffled together."""
    decode_threads: Annotated[int, Field(ge=0)] = 4
    """Threads that decode and augment the next batches beside the training step; 0 = in step."""
    sources: tuple[str, ...] | None = None
    """Sources it trains on; by default all human and web ones for pretraining, all human ones for a finetuning
    (paper: COCO alone)."""
    checkpoint_layers: Annotated[int, Field(ge=0)] | None = None
    """Last blocks of the image encoder that recompute their activations in this training; `model`'s own number
    when not given. Costs time, saves memory, changes no result (reference: 0 to 12 by task and size)."""
    workers: WorkersConfig = WorkersConfig()

    @model_validator(mode="after")
    def _one_length(self) -> TrainSection:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        shares = self.workers.workers * self.accumulate
        if self.batch_size % shares:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide among {self.workers.workers} workers x "
                f"{self.accumulate} pieces (accumulate); allowed: multiples of {shares}"
            )
        return self


class CaptionerSection(Section):
    """Where the captioner comes from and how it writes."""

    checkpoint: str | None = None
    """Folder or file (capfilt, transformers folder, BLIP .pth) used in round 1 instead of finetuning one."""
    tokenizer: str | None = None
    """Tokenizer folder for checkpoints that carry none (BLIP .pth)."""
    finetune: TrainSection | None = None
    """Finetuning from the last MED on the human pairs, by the LM loss."""
    generate: CaptionConfig = CaptionConfig()


class FilterSection(Section):
    """Where the filter comes from and how it judges."""

    checkpoint: str | None = None
    """Folder or file used in round 1 instead of finetuning one."""
    tokenizer: str | None = None
    """Tokenizer folder for checkpoints that carry none (BLIP .pth)."""
    finetune: TrainSection | None = None
    """Finetuning from the last MED on the human pairs, by the ITC and ITM losses."""
    judge: FilterConfig = FilterConfig()


class EvaluateSection(Section):
    """How every pretrained MED is measured on the test sources."""

    k: Annotated[int, Field(ge=1)] = 256
    """ITC candidates that the ITM head ranks again (reference: k_test, 256 for COCO, 128 for Flickr30k)."""
    caption: CaptionConfig = CaptionConfig()
    """How captions for the caption metrics are written."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Test images at the most."""


class ReportSection(Section):
    """The report page."""

    examples: Annotated[int, Field(ge=0)] = 24
    """Images shown with their accepted and rejected texts."""


class Config(Section):
    """A whole run."""

    run: RunSection
    shapes: ShapesConfig | None = None
    """Make the procedural corpus before the first node, in `shapes_dir`."""
    shapes_dir: str = "data/shapes"
    clipart: ClipartConfig | None = None
    """Make the clip-art corpus before the first node, in `clipart_dir`."""
    clipart_dir: str = "data/clipart"
    sources: dict[Annotated[str, Field(pattern=NAME)], SourceSection] = Field(min_length=1)
    fetch: FetchConfig = FetchConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    """What happens to web pictures that come again and again."""
    model: ModelSection = ModelSection()
    pretrain: TrainSection | None = None
    """Pretraining by ITC + ITM + LM; left out, nothing is pretrained and both checkpoints must be given."""
    continue_training: bool = False
    """Pretrain round r from the MED of round r-1 instead of from scratch (paper, Table 13: no gain)."""
    captioner: CaptionerSection = CaptionerSection()
    filter: FilterSection = FilterSection()
    evaluate: EvaluateSection = EvaluateSection()
    report: ReportSection = ReportSection()
    cluster: ClusterConfig = ClusterConfig()

    def of_kind(self, *kinds: str) -> list[str]:
        """Names of the sources of these kinds, in the config's order."""
        return [name for name, source in self.sources.items() if source.kind in kinds]

    def trainings(self) -> dict[str, TrainSection]:
        """The sections that train, by kind of node."""
        found = {
            "pretrain": self.pretrain,
            "captioner": self.captioner.finetune,
            "filter": self.filter.finetune,
        }
        return {kind: section for kind, section in found.items() if section is not None}

    def trains_on(self, kind: str) -> list[str]:
        """Sources that a node of this kind trains on, in the config's order."""
        chosen = self.trainings()[kind].sources
        return [name for name in self.of_kind(*_TRAINED[kind]) if chosen is None or name in chosen]

    @model_validator(mode="after")
    def _trainings_fit(self) -> Config:
        depth = self.model.med.vision.depth
        in_parts = {name for name, source in self.sources.items() if source.parts > 1}
        idle = in_parts - set(self.trains_on("pretrain") if self.pretrain is not None else ())
        if idle:
            raise ValueError(f"sources.{min(idle)}.parts: no pretraining reads this source; remove the key")
        for kind, section in self.trainings().items():
            where = kind if kind == "pretrain" else f"{kind}.finetune"
            known = self.of_kind(*_TRAINED[kind])
            for name in section.sources or ():
                if name not in known:
                    raise ValueError(
                        f"{where}.sources: {name!r} is no source of kind {' or '.join(_TRAINED[kind])}; "
                        f"allowed: {', '.join(known)}"
                    )
            if section.sources == ():
                raise ValueError(f"{where}.sources: names none; allowed: {', '.join(known)}")
            if (section.checkpoint_layers or 0) > depth:
                raise ValueError(
                    f"{where}.checkpoint_layers: {section.checkpoint_layers} exceed "
                    f"model.med.vision.depth {depth}; at most all"
                )
        return self

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if not self.of_kind("web"):
            raise ValueError("sources: no source of kind web; there is nothing to caption and filter")
        for name in ("captioner", "filter"):
            section: CaptionerSection | FilterSection = getattr(self, name)
            first = section.checkpoint is None
            if (first or self.run.rounds > 1) and (section.finetune is None or self.pretrain is None):
                raise ValueError(
                    f"{name}: give {name}.checkpoint, or both pretrain and {name}.finetune to train one"
                    + (" (rounds after the first always train)" if not first else "")
                )
        if self.pretrain is not None and not self.of_kind("human"):
            raise ValueError("sources: training needs a source of kind human (clean pairs)")
        return self
