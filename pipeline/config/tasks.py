"""The section of a config that describes a downstream task: its data, its finetuning and its evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from capfilt.models.config import Loss, Parts
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.tasks.options import RANKED_ANSWERS, RERANKED
from capfilt.pipeline.config.training import FinetuneSection, Section
from capfilt.stages.bootstrap.caption import CaptionConfig

Kind = Literal["vqa", "nlvr2", "retrieval", "caption", "classification"]
PARTS: dict[Kind, Parts] = {
    "vqa": "vqa",
    "nlvr2": "nlvr",
    "retrieval": "filter",
    "caption": "captioner",
    "classification": "filter",
}
"""The parts of a model that do a task."""
METRICS: dict[Kind, str] = {
    "vqa": "vqa_score",
    "nlvr2": "accuracy",
    "retrieval": "r_mean",
    "caption": "cider",
    "classification": "top1",
}
"""The figure by which models are compared, in percent."""
LOSSES: dict[Kind, tuple[Loss, ...]] = {
    "vqa": ("lm",),
    "nlvr2": ("itm",),
    "retrieval": ("itc", "itm"),
    "caption": ("lm",),
    "classification": (),
}
_PAPER: dict[Kind, dict[str, Any]] = {
    "vqa": {"lr": 2e-5, "epochs": 10, "image_size": 480, "objective": {"max_tokens": 35}},
    "nlvr2": {
        "lr": 3e-5,
        "epochs": 15,
        "image_size": 384,
        "objective": {"max_tokens": 60, "max_words": 40},
    },
    "retrieval": {
        "lr": 1e-5,
        "epochs": 6,
        "image_size": 384,
        "objective": {"max_tokens": 35, "alpha_ramp_epochs": 1, "negative_all_rank": True},
    },
    "caption": {
        "lr": 1e-5,
        "epochs": 5,
        "image_size": 384,
        "objective": {"max_tokens": 40, "prompt": "a picture of "},
    },
}
"""Table 14 of the paper for ViT-B; lengths, prompt, ramp and negatives are those of the reference code."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""What a file of the training may be called."""
PAPER_BATCH = 256
TEMPLATES = ("a picture of a {}",)
"""Prompts of a class."""
MAX_ANSWERS = 3128
"""Answers that are ranked if the config gives no list: the size of the paper's (section 5.3)."""


def complete_finetuning(kind: Kind, given: dict[str, Any]) -> dict[str, Any]:
    """The section of a finetuning with the paper's values in place of the keys that are left out."""
    paper = _PAPER[kind]
    optimizer = {
        "lr": paper["lr"],
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_steps": 0,
        "warmup_lr": 0.0,
        "min_lr": 0.0,
    }
    data = {"batch_size": PAPER_BATCH, "image_size": paper["image_size"], **given}
    if data.get("steps") is None and data.get("epochs") is None:
        data["epochs"] = paper["epochs"]
    objective = {"losses": list(LOSSES[kind]), **paper["objective"]}
    for name, values in (("objective", objective), ("optimizer", optimizer)):
        if isinstance(data.get(name, {}), dict):  # anything else is a mistake, which pydantic reports
            data[name] = values | data.get(name, {})
    data.setdefault("augment", {"min_scale": 0.5})
    return data


class TaskData(Section):
    """One file of a task, with its images."""

    file: str
    """vqa: questions of VQA v2, of Visual Genome, or of BLIP. nlvr2: JSON lines of NLVR2, or BLIP's list.
    retrieval and caption: COCO, Karpathy, BLIP or NoCaps json, or a manifest with url and text.
    classification: a folder with a folder for each class (default: `images`), a list with image and label
    (CSV, TSV, JSON), or COCO's instances."""
    annotations: str | None = None
    """vqa: the annotations of VQA v2."""
    images: str
    """Folder (any fsspec URL) in which the paths of the images begin."""
    image_name: str | None = None
    """vqa: file name of an image of VQA v2 or Visual Genome, with `{image_id}` and `{subtype}`. Default:
    `COCO_{subtype}_{image_id:012d}.jpg`, `{image_id}.jpg`."""
    split: str | None = None
    """retrieval and caption: part of Karpathy's json. Default: `train` in a training, else `test`."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Read only the first images, or pairs of images. Default: all."""

    @model_validator(mode="after")
    def _check_image_name(self) -> TaskData:
        if self.image_name is not None:
            try:
                self.image_name.format(image_id=1, subtype="train2014")
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"image_name {self.image_name!r} is no pattern of file names ({error}); allowed: text "
                    "with {image_id}, {image_id:012d} and {subtype}"
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
    ITM ranks again, 256 by default (paper: COCO 256, Flickr30k 128). classification: best classes by ITC that
    ITM ranks again, by default none."""
    answers: str | None = None
    """vqa: JSON list of the answers that are ranked. Default: the 3,128 most frequent answers of the
    training."""
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
    texts. `caption`: captions. `classification`: classes of images, zero-shot."""
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
        return self.evaluate.k or (RANKED_ANSWERS if self.kind == "vqa" else RERANKED)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Fill in the paper's values; a section with a mistake is left as it is."""
        if isinstance(data, dict) and data.get("kind") == "classification":
            if data.get("finetune") is not None:
                raise ValueError("finetune: a task of kind classification trains nothing; remove the key")
            return _with_folder_of_classes(data)
        if not isinstance(data, dict) or data.get("kind") not in _PAPER:
            return data
        finetune = data.get("finetune")
        return data if not isinstance(finetune, dict) else data | {
            "finetune": complete_finetuning(data["kind"], finetune)
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
                ("annotations", ("vqa",)),
                ("image_name", ("vqa",)),
                ("split", ("retrieval", "caption")),
            ):
                if getattr(files, name) is not None and self.kind not in kinds:
                    raise ValueError(
                        f"data.{where}.{name}: only for kind {' and '.join(kinds)}; remove the key"
                    )
        if self.evaluate.answers is not None and self.kind != "vqa":
            raise ValueError("evaluate.answers: only for kind vqa; remove the key")
        if self.evaluate.k is not None and self.kind not in ("vqa", "retrieval", "classification"):
            raise ValueError("evaluate.k: only for kinds vqa, retrieval and classification; remove the key")
        self._check_classes()
        if self.kind == "vqa" and self.evaluate.answers is None and not self.data.train:
            raise ValueError("evaluate.answers: missing; without data.train there are no answers to rank")

    def _check_classes(self) -> None:
        evaluate = self.evaluate
        given = {"classes": evaluate.classes is not None, "templates": evaluate.templates != TEMPLATES}
        for name, is_given in given.items():
            if is_given and self.kind != "classification":
                raise ValueError(f"evaluate.{name}: only for kind classification; remove the key")
        for template in self.evaluate.templates:
            if "{}" not in template:
                raise ValueError(
                    f"evaluate.templates: {template!r} has no {{}} for the class; give texts as "
                    f"{TEMPLATES[0]!r}"
                )
        if not self.evaluate.templates:
            raise ValueError(f"evaluate.templates: empty; give texts as {TEMPLATES[0]!r}, or remove the key")


def _with_folder_of_classes(data: dict[str, Any]) -> dict[str, Any]:
    """The section of a classification, whose folder of images is also its file if none is given."""
    files = data.get("data")
    test = files.get("test") if isinstance(files, dict) else None
    if not isinstance(files, dict) or not isinstance(test, dict) or "images" not in test or "file" in test:
        return data
    return data | {"data": files | {"test": test | {"file": test["images"]}}}
