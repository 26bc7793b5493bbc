"""The sections of a config that belong to the pipeline itself.

Settings of a stage, a model or the cluster, with their defaults, are defined beside the code that owns them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from capfilt.models.config import MedConfig
from capfilt.models.tasks.options import RERANKED
from capfilt.pipeline.config.training import RoleSection, Section, TrainSection
from capfilt.stages.bootstrap.caption import CaptionConfig
from capfilt.stages.bootstrap.filter import FilterConfig
from capfilt.stages.export.forms import Form, Origin
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.pairs.texts import TextsConfig

CAPTIONER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What a captioner may be called."""
_DIGEST = re.compile(r"[0-9a-f]{16}")


def check_captioner_name(name: str, key: str) -> None:
    """Check the name of a captioner whose texts come from elsewhere.

    Raises:
        ValueError: the name is not plain, or looks like the digest of a model.
    """
    if not CAPTIONER_NAME.fullmatch(name) or _DIGEST.fullmatch(name) or name in ("none", "null"):
        raise ValueError(
            f"{key}: {name!r} cannot be the name of a captioner; allowed: letters, digits, '-', '_' and '.', "
            "not 16 hex digits (they are digests of models), not none"
        )


class RunSection(Section):
    """The run directory, the name of the run, and settings that concern all nodes."""

    dir: str = Field(min_length=1)
    """Run directory: local path or any fsspec URL (s3://, gs://)."""
    name: str = "capfilt"
    """Title of the report page."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of every random draw: captions, data order, augmentation, initial weights."""
    rounds: Annotated[int, Field(ge=0)] = 1
    """Bootstrapping rounds. Each round trains a captioner and a filter, judges all web images and trains a
    new model. With 0 the first model is pretrained and evaluated, and nothing is bootstrapped."""
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of a source's rows that may fail; beyond it the node fails. High by default: many links of web
    lists are dead."""
    grace_seconds: Annotated[float, Field(ge=0)] = 30
    """Seconds in which shards in flight may finish after SIGINT, SIGTERM or SIGHUP. `ray job stop` kills
    after 3 s unless RAY_JOB_STOP_WAIT_TIME_S is set on the cluster."""
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options for `run.dir` (endpoint_url, profile, anon), and for checkpoints on the same kind of
    store. Credentials are refused here: set them in the environment or in a profile."""


class SourceSection(Section):
    """A named input: a manifest, and how its images are fetched."""

    kind: Literal["human", "web", "test"]
    """`human`: clean pairs, captioned by people; never filtered. `web`: noisy pairs; captioned and filtered.
    `test`: clean pairs held out for evaluation."""
    rows: ManifestConfig
    """The manifest and its columns."""
    images: str | None = None
    """Folder (any fsspec URL) of the images, if the urls of the manifest are relative paths."""
    base_url: str | None = None
    """Web address to which relative urls of the manifest are joined."""
    serve: str | None = None
    """Local folder that the driver serves over HTTP during the fetch; relative urls are paths in it. For
    demonstrations: the real fetch stage runs without a network. The server listens on 127.0.0.1; where the
    run uses a Ray cluster, on the address of the driver's node, which the other nodes reach."""
    fetch: FetchConfig | None = None
    """Fetch settings of this source, in place of the top-level `fetch`; keys left out have the defaults, not
    its values."""
    parts: Annotated[int, Field(ge=1)] = 1
    """Web sources: number of equal parts into which the shards are divided. Each pretraining epoch reads one
    part, in turn (paper: 5 for LAION, one fifth per epoch)."""

    @property
    def has_tars(self) -> bool:
        """Whether the manifest says that it consists of image tars."""
        manifest = self.rows.manifest
        names = (manifest,) if isinstance(manifest, str) else manifest
        return self.rows.format == "tar" or any(name.endswith((".tar", ".tar.gz", ".tgz")) for name in names)

    @model_validator(mode="after")
    def _check_parts(self) -> SourceSection:
        if self.parts > 1 and self.kind != "web":
            raise ValueError(
                f"parts is {self.parts}, but only a source of kind web can be read in parts; remove the key"
            )
        return self

    @model_validator(mode="after")
    def _check_columns(self) -> SourceSection:
        rows, fetch = self.rows, self.fetch
        if rows.hash_column is not None and fetch is not None and fetch.backend == "img2dataset":
            raise ValueError(
                "rows.hash_column: fetch.backend img2dataset keeps no bytes to compare with; use the backend "
                "capfilt, or remove the key"
            )
        for name in rows.synthetic_columns:
            check_captioner_name(name, "rows.synthetic_columns")
        return self

    @model_validator(mode="after")
    def _check_place(self) -> SourceSection:
        given = [n for n in ("images", "base_url", "serve") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} are given, but relative urls belong to one place; keep one"
            )
        return self


class ModelSection(Section):
    """The model (MED) that is pretrained: its size and its start weights."""

    med: MedConfig = MedConfig()
    """Sizes. `text.vocab_size` is set from the tokenizer."""
    vision_start: str | None = None
    """Start of the image encoder: a timm model name or a local safetensors file. Default: random weights."""
    text_start: str | None = None
    """Start of the text transformer: a BERT checkpoint folder. Default: random weights."""
    text_start_layers: Literal["all", "first"] = "all"
    """`first`: use the lowest layers of a BERT that is deeper than the text transformer. `all`: both must
    have the same depth."""
    tokenizer: str | None = None
    """Folder with a WordPiece tokenizer (vocab.txt or tokenizer.json). Default: the tokenizer of
    `text_start`; without one, a tokenizer is trained on the texts of the corpus."""
    vocab_size: Annotated[int, Field(ge=64)] = 30522
    """Maximum vocabulary size of a tokenizer that is trained."""

    @model_validator(mode="after")
    def _check_med_parts(self) -> ModelSection:
        if self.med.parts in ("vqa", "nlvr"):
            raise ValueError(
                f'parts "{self.med.parts}" exists only after finetuning; remove the key, '
                "because this model is pretrained"
            )
        return self


class PretrainSection(TrainSection):
    """The pretraining of every round."""

    hold_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the web images on which nothing is trained. Their texts are judged and written like all
    others; the estimates of `filter.calibrate` come from them, because a model scores the pairs that it was
    trained on too high. 1,000 images are enough, for example 0.001 of a million."""
    texts: TextsConfig = TextsConfig()
    """Which texts are trained on from round 1 on, and how often."""


EnsembleSize = Annotated[int, Field(ge=1)]
"""Number of models that are finetuned with different seeds and work together."""
NO_CAPTIONER = "none"
"""Value of `captioner.checkpoint` that says: the run has no captioner, on purpose."""


class CaptionerSection(Section):
    """The captioner: a given checkpoint or a finetuning, and how it generates captions."""

    checkpoint: str | None = None
    """Checkpoint for round 1, in place of a finetuning: a capfilt or transformers folder, or a BLIP or LAVIS
    .pth file. `none`: the run has no captioner and only filters (also written `captioner: none`)."""
    tokenizer: str | None = None
    """Tokenizer folder, for a checkpoint without one (BLIP .pth)."""
    finetune: RoleSection | None = None
    """Finetuning of the last pretrained model on the human pairs, with the LM loss."""
    web_share: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share of web pairs, as they came, among the pairs of the finetuning. Paper: 0; more lets the captioner
    keep what only the web shows, and teaches it the noise of the web."""
    ensemble: EnsembleSize = 1
    """Number of captioners in each round, finetuned with different seeds. Each writes
    `generate.captions_per_image` texts for every image."""
    generate: CaptionConfig = CaptionConfig()
    """How captions are generated."""


class CalibrateSection(Section):
    """Calibration of the filter, without known truth, on a sample of the web texts."""

    pairs: Annotated[int, Field(ge=0)] = 2000
    """Texts of the sample, each scored with its own image, with 16 others, and with a word replaced; 0: no
    calibration. There is none either while a filter comes from a model that was pretrained on all web images
    (see `pretrain.hold_out`)."""


class FilterSection(Section):
    """The filter: a given checkpoint or a finetuning, and how it judges texts."""

    checkpoint: str | None = None
    """Checkpoint for round 1, in place of a finetuning: a capfilt or transformers folder, or a BLIP or LAVIS
    .pth file."""
    tokenizer: str | None = None
    """Tokenizer folder, for a checkpoint without one (BLIP .pth)."""
    finetune: RoleSection | None = None
    """Finetuning of the last pretrained model on the human pairs, with the ITC and ITM losses."""
    ensemble: EnsembleSize = 1
    """Number of filters in each round, finetuned with different seeds. The mean of their probabilities
    judges."""
    judge: FilterConfig = FilterConfig()
    """How texts are scored and kept or dropped."""
    calibrate: CalibrateSection = CalibrateSection()
    """How the share of noise is estimated and a threshold suggested, in every round."""


class EvaluateSection(Section):
    """Evaluation of every pretrained model on the test sources."""

    k: Annotated[int, Field(ge=1)] = RERANKED
    """Number of best ITC candidates that the ITM head reranks (reference: k_test, 256 for COCO, 128 for
    Flickr30k)."""
    caption: CaptionConfig = CaptionConfig()
    """How captions are generated for the caption metrics."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of test images. Default: all."""


class ReportSection(Section):
    """The report page."""

    examples: Annotated[int, Field(ge=0)] = 24
    """Number of images shown with their kept and dropped texts; fewer, which the page says, where it would
    have more than 5 MB."""


class ExportSection(Section):
    """What the run exports after its last round, as `capfilt export` does."""

    to: Form
    """The form: tars for `webdataset` or `open_clip`, a folder for Hugging Face `datasets`, a Parquet table,
    a list of uids for DataComp, or lists for BLIP."""
    out: str | None = Field(default=None, min_length=1)
    """Folder to write: local path or any fsspec URL. Default: `exports/<round>` in the run directory."""
    human: bool = False
    """Export the human pairs too."""
    origins: tuple[Origin, ...] | None = Field(default=None, min_length=1)
    """Origins of the texts. Default: both; for `datacomp-uids` only `web`, since its trainer reads the texts
    of the pool."""
    columns: tuple[str, ...] | None = None
    """Further columns of the candidates or the corpus. Default: those that your manifest has brought."""
