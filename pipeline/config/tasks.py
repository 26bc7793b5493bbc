"""The section of a config that describes a downstream task: its data, its finetuning and its evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from capfilt.models.config import Loss, Parts
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.tasks.options import RANKED_ANSWERS, RERANKED, TEMPLATES
from capfilt.pipeline.config.training import PAPER, FinetuneSection, Section, complete_finetuning
from capfilt.stages.bootstrap.caption import CaptionConfig

Kind = Literal[
    "vqa", "nlvr2", "retrieval", "caption", "classification", "visdial", "video_retrieval", "video_qa"
]
VIDEO_KINDS: tuple[Kind, ...] = ("video_retrieval", "video_qa")
RANKING_KINDS: tuple[Kind, ...] = ("vqa", "retrieval", "classification", *VIDEO_KINDS)
PARTS: dict[Kind, Parts] = {
    "vqa": "vqa",
    "nlvr2": "nlvr",
    "retrieval": "filter",
    "caption": "captioner",
    "classification": "filter",
    "visdial": "filter",
    "video_retrieval": "filter",
    "video_qa": "vqa",
}
"""The parts of a model that do a task."""
METRICS: dict[Kind, str] = {
    "vqa": "vqa_score",
    "nlvr2": "accuracy",
    "retrieval": "r_mean",
    "caption": "cider",
    "classification": "top1",
    "visdial": "mrr",
    "video_retrieval": "r@1",
    "video_qa": "accuracy",
}
"""The figure by which models are compared, in percent."""
LOSSES: dict[Kind, tuple[Loss, ...]] = {
    "vqa": ("lm",),
    "nlvr2": ("itm",),
    "retrieval": ("itc", "itm"),
    "caption": ("lm",),
    "classification": (),
    "visdial": ("itm",),
    "video_retrieval": ("itc", "itm"),
    "video_qa": ("lm",),
}
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""What a file of the training may be called."""
MAX_ANSWERS = 3128
"""Answers that are ranked if the config gives no list: the size of the paper's (section 5.3)."""
FRAMES: dict[Kind, int] = {"video_retrieval": 8, "video_qa": 16}
"""Frames of a video (section 5.6)."""
VIDEO_RERANKED = 128
"""Best ITC candidates that ITM ranks again (reference: k_test of retrieval_msrvtt.yaml)."""
NEGATIVES = 1
"""False answers that are drawn for each question of a dialog: as many as VD-ViLBERT draws."""


class TaskData(Section):
    """One file of a task, with its images."""

    file: str
    """vqa: questions of VQA v2, of Visual Genome, or of BLIP. nlvr2: JSON lines of NLVR2, or BLIP's list.
    visdial: dialogs of VisDial 1.0. video_retrieval: MSRVTT's json, or a csv or list of videos with texts.
    video_qa: questions of MSRVTT-QA or MSVD-QA. retrieval and caption: COCO, Karpathy, BLIP or NoCaps json,
    or a manifest with url and text. classification: a folder with a folder for each class (default:
    `images`), a list with image and label (CSV, TSV, JSON), or COCO's instances."""
    annotations: str | None = None
    """vqa: the annotations of VQA v2. visdial: the dense annotations. video_retrieval: MSRVTT's json, for a
    csv that only names videos."""
    images: str
    """Folder (any fsspec URL) in which the paths of the images, or of the videos, begin."""
    image_name: str | None = None
    """vqa, visdial: file name of an image, with `{image_id}` and `{subtype}`; video_retrieval, video_qa: of a
    video, with `{video_id}`. Default: VQA v2 `COCO_{subtype}_{image_id:012d}.jpg`, Visual Genome
    `{image_id}.jpg`, VisDial `VisualDialog_{subtype}_{image_id:012d}.jpg`, in its training the names of both
    splits of COCO; videos `{video_id}.mp4`, `video7.mp4` for the number 7."""
    split: str | None = None
    """retrieval and caption: part of Karpathy's json. Default: `train` in a training, else `test`.
    video_retrieval: part of MSRVTT's json. Default: all."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Read only the first images, pairs of images, or videos. Default: all."""

    @model_validator(mode="after")
    def _check_image_name(self) -> TaskData:
        if self.image_name is not None:
            try:
                self.image_name.format(image_id=1, video_id=1, subtype="train2014")
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"image_name {self.image_name!r} is no pattern of file names ({error}); allowed: text "
                    "with {image_id}, {image_id:012d}, {video_id} and {subtype}"
                ) from error
        return self


class TaskDataSection(Section):
    """The data of a task."""

    train: dict[Annotated[str, Field(pattern=NAME)], TaskData] = Field(default_factory=dict)
    """Files to finetune on, by a name of your choice."""
    test: TaskData
    """File to evaluate on."""


def _beams() -> CaptionConfig:
    """Beam search with 3 beams and 5 to 20 tokens, of which the prompt takes 4, as in the reference."""
    return CaptionConfig(sampling=SamplingConfig(strategy="beam", num_beams=3, min_new_tokens=1))


class TaskEvaluateSection(Section):
    """How a task is evaluated."""

    k: Annotated[int, Field(ge=1)] | None = None
    """vqa: answers whose exact likelihoods are compared, 128 by default. retrieval: best ITC candidates that
    ITM ranks again, 256 by default (paper: COCO 256, Flickr30k 128), of videos 128. classification: best
    classes by ITC that ITM ranks again, by default none."""
    answers: str | None = None
    """vqa, video_qa: JSON list of the answers that are ranked. Default: the 3,128 most frequent answers of
    the training. video_qa without both: no answers are ranked."""
    classes: str | None = None
    """classification: JSON list of the classes, or object from labels to classes. A label that is a number is
    a place in the list, from 0. Default: the labels of the test images, `_` as space."""
    templates: tuple[str, ...] = TEMPLATES
    """classification: texts with `{}` for the class; the features of several are averaged."""
    caption: CaptionConfig = Field(default_factory=_beams)
    """caption: how captions are generated. Its batch size, precision and image size are those of all
    kinds."""


class TaskSection(Section):
    """A downstream task: a finetuned model, evaluated beside the model that it starts from."""

    kind: Kind
    """`vqa`: questions about images. `nlvr2`: statements about pairs of images. `retrieval`: images and
    texts. `caption`: captions. `classification`: classes of images, zero-shot. `visdial`: questions in
    dialogs about images. `video_retrieval`: videos and texts. `video_qa`: questions about videos."""
    data: TaskDataSection
    """Files of the task."""
    finetune: FinetuneSection | None = None
    """The finetuning. Keys that are left out have the values of the paper's Table 14 for this kind, and the
    defaults below where the paper says nothing. Without it only the start is evaluated."""
    evaluate: TaskEvaluateSection = TaskEvaluateSection()
    """The evaluation."""
    checkpoint: str | None = None
    """Checkpoint to start from: a capfilt or transformers folder, a BLIP or LAVIS .pth file, or hf://org/name.
    Default: the pretrained models of the run."""
    tokenizer: str | None = None
    """Tokenizer folder, for a checkpoint without one (BLIP .pth)."""
    negatives: Annotated[int, Field(ge=1)] | None = None
    """visdial: false answers that are drawn from the candidates for each question of the training. Default:
    1, as in VD-ViLBERT; the paper does not say."""
    frames: Annotated[int, Field(ge=1, le=64)] | None = None
    """video_retrieval, video_qa: frames of each video, evenly spaced. Default: 8 for retrieval and 16 for
    questions, as in the paper."""
    rounds: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Rounds whose pretrained model is finetuned and evaluated, to compare them. Default: the last."""

    @property
    def metric(self) -> str:
        """The figure by which models are compared."""
        return METRICS[self.kind]

    @property
    def parts(self) -> Parts:
        """The parts of a model that do the task."""
        return PARTS[self.kind]

    @property
    def k(self) -> int:
        """`evaluate.k`, or its default."""
        if self.kind == "classification":
            return self.evaluate.k or 0
        default = {"retrieval": RERANKED, "video_retrieval": VIDEO_RERANKED}.get(self.kind, RANKED_ANSWERS)
        return self.evaluate.k or default

    @property
    def frames_per_video(self) -> int:
        """`frames`, or its default; 0 for images."""
        return self.frames or FRAMES.get(self.kind, 0)

    @property
    def ranks_answers(self) -> bool:
        """Whether answers are ranked: where there are some."""
        return self.kind == "vqa" or (
            self.kind == "video_qa" and (self.evaluate.answers is not None or bool(self.data.train))
        )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fill in the paper's values; a section with a mistake is left as it is."""
        if isinstance(data, dict) and data.get("kind") == "classification":
            if data.get("finetune") is not None:
                raise ValueError("finetune: a task of kind classification trains nothing; remove the key")
            return _with_folder_of_classes(data)
        if not isinstance(data, dict) or data.get("kind") not in PAPER:
            return data
        finetune = data.get("finetune")
        return data if not isinstance(finetune, dict) else data | {
            "finetune": complete_finetuning(data["kind"], LOSSES[data["kind"]], finetune)
        }  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> TaskSection:
        if self.kind == "classification" and self.data.train:
            raise ValueError("data.train: a task of kind classification trains nothing; remove the key")
        if self.finetune is not None:
            if not self.data.train:
                raise ValueError("data.train: empty, but there is a finetuning; give files to train on")
            losses = self.finetune.objective.losses
            if set(losses) != set(LOSSES[self.kind]):
                raise ValueError(
                    f"finetune.objective.losses: {', '.join(losses)}; a task of kind {self.kind} trains with "
                    f"{', '.join(LOSSES[self.kind])}; remove the key"
                )
        if self.checkpoint is not None and self.rounds is not None:
            raise ValueError("checkpoint and rounds are given; a checkpoint belongs to no round, keep one")
        if self.rounds is not None and (not self.rounds or len(set(self.rounds)) < len(self.rounds)):
            raise ValueError(f"rounds: {list(self.rounds)}; name each round once, at least one")
        if self.tokenizer is not None and self.checkpoint is None:
            raise ValueError("tokenizer: the run's own models bring theirs; remove the key")
        self._check_keys()
        return self

    def _check_keys(self) -> None:
        """Check that no key of another kind is given."""
        for where, files in (
            ("test", self.data.test),
            *((f"train.{name}", each) for name, each in self.data.train.items()),
        ):
            for name, kinds in (
                ("annotations", ("vqa", "visdial", "video_retrieval")),
                ("image_name", ("vqa", "visdial", *VIDEO_KINDS)),
                ("split", ("retrieval", "caption", "video_retrieval")),
            ):
                if getattr(files, name) is not None and self.kind not in kinds:
                    raise ValueError(f"data.{where}.{name}: only for kind {', '.join(kinds)}; remove the key")
        evaluate = self.evaluate
        for name, is_given, kinds in (
            ("evaluate.answers", evaluate.answers is not None, ("vqa", "video_qa")),
            ("evaluate.k", evaluate.k is not None, RANKING_KINDS),
            ("evaluate.classes", evaluate.classes is not None, ("classification",)),
            ("evaluate.templates", evaluate.templates != TEMPLATES, ("classification",)),
            ("frames", self.frames is not None, VIDEO_KINDS),
            ("negatives", self.negatives is not None, ("visdial",)),
        ):
            if is_given and self.kind not in kinds:
                raise ValueError(f"{name}: only for kind {', '.join(kinds)}; remove the key")
        if self.negatives is not None and self.finetune is None:
            raise ValueError("negatives: only for a finetuning; remove the key")
        if self.kind == "vqa" and evaluate.answers is None and not self.data.train:
            raise ValueError("evaluate.answers: missing; without data.train there are no answers to rank")
        if not evaluate.templates or any("{}" not in template for template in evaluate.templates):
            raise ValueError(
                f"evaluate.templates: {list(evaluate.templates)}; give texts with {{}} for the class, as "
                f"{TEMPLATES[0]!r}"
            )


def _with_folder_of_classes(data: dict[str, Any]) -> dict[str, Any]:
    """The section of a classification, whose folder of images is also its file if none is given."""
    files = data.get("data")
    test = files.get("test") if isinstance(files, dict) else None
    if not isinstance(files, dict) or not isinstance(test, dict) or "images" not in test or "file" in test:
        return data
    return data | {"data": files | {"test": test | {"file": test["images"]}}}
