"""Evaluation of one checkpoint on one test set, in this process."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from capfilt.models.checkpoints.files import checkpoint_digest
from capfilt.models.tasks.options import BATCH_SIZE, RERANKED
from capfilt.pipeline.evaluation.caption_metrics import compute_caption_metrics, group_keys
from capfilt.pipeline.evaluation.held_out import (
    HeldOutImages,
    Protocol,
    measure_retrieval,
    write_captions,
)
from capfilt.pipeline.testset.images import read_images
from capfilt.pipeline.testset.layouts import TestImage, TestSet, TestSetError, read_test_set
from capfilt.stages.bootstrap.caption import CaptionConfig
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.artifacts import ensure_local

if TYPE_CHECKING:
    from capfilt.models.checkpoints.load import CheckpointInfo
    from capfilt.models.network.med import MED
    from capfilt.models.network.tokenizer import Tokenizer

Task = Literal["retrieval", "caption"]
TASKS: tuple[Task, ...] = ("retrieval", "caption")
NEEDED = {"retrieval": ("pretrain", "filter"), "caption": ("pretrain", "captioner")}
"""Which parts of a MED can do a task."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What `capfilt evaluate` is asked for."""

    checkpoint: str
    data: str
    images: str | None = None
    """Folder in which relative paths of the data begin. Default: the folder of the data file."""
    task: Task | None = None
    """Default: every task that the checkpoint and the data allow."""
    split: str | None = None
    limit: int | None = None
    k: int = RERANKED
    caption: CaptionConfig
    """Its batch size is not used."""
    batch_size: int | None = None
    """Default: see `choose_batch_size`."""
    itm_token: Literal["enc", "cls"] = "enc"
    tokenizer: str | None = None


@dataclass
class Evaluation:
    """What `evaluate_checkpoint` has found."""

    request: EvaluationRequest
    test_set: TestSet
    model: dict[str, Any]
    """Format, parts, image size and digest of the checkpoint."""
    evaluated: int
    """Images that were read."""
    texts: int
    """Texts of these images."""
    retrieval: dict[str, float] = field(default_factory=dict)
    caption: dict[str, float] = field(default_factory=dict)
    caption_by_domain: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same for the images of each domain of NoCaps; empty for other data."""
    captions: list[dict[str, Any]] = field(default_factory=list)
    """The official result file: `{"image_id", "caption"}` of each image that was read."""
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> list[TestImage]:
        """Records whose image could not be read."""
        return [image for image in self.test_set.images if image.status != SUCCESS]


def check_request(request: EvaluationRequest, tell: Callable[[str], None]) -> TestSet:
    """Read the test set and check what can be known before torch is loaded.

    Raises:
        TestSetError, ManifestError, ConfigError, ArtifactError: a mistake in the arguments.
    """
    from capfilt.pipeline.config.load import refuse_credentials
    from capfilt.stages.storage.artifacts import check_artifact

    given = {"CHECKPOINT": request.checkpoint, "--data": request.data, "--images": request.images or ""}
    for name, address in given.items():
        refuse_credentials(address, name)
    check_artifact(request.checkpoint, "CHECKPOINT")
    if request.tokenizer is not None:
        check_artifact(request.tokenizer, "--tokenizer")
    tell(f"reading {request.data}")
    test_set = read_test_set(request.data, request.split, request.limit)
    if request.task == "retrieval" and not any(image.row["texts"] for image in test_set.images):
        raise TestSetError(f"--data {request.data}: it has no texts to retrieve; use --task caption")
    return test_set


def evaluate_checkpoint(
    request: EvaluationRequest, test_set: TestSet, tell: Callable[[str], None]
) -> Evaluation:
    """Evaluate a checkpoint on a test set whose request is checked (`check_request`).

    An image that cannot be read is neither in the galleries nor captioned, and its texts are not queries; the
    figures are over the others.

    Raises:
        TestSetError: no image can be read, or the checkpoint cannot do the task.
        CheckpointError: it cannot be loaded.
        OutOfMemory: a single image at a time does not fit.
    """
    seconds, start = dict[str, float](), time.monotonic()

    def lap(step: str) -> None:
        nonlocal start
        start, before = time.monotonic(), start
        seconds[step] = round(start - before, 3)

    tell(f"reading {request.checkpoint}")
    med, tokenizer, info, digest = _load(request)
    tasks, notes = _choose_tasks(request, info)
    if "caption" in tasks:
        _check_prompt(request.caption, med, tokenizer)
    lap("model")
    held_out = _read_held_out(request, test_set, tell)
    lap("images")
    found = Evaluation(
        request=request,
        test_set=test_set,
        model={"format": info.format, "parts": info.parts, "digest": digest, **_describe(med)},
        evaluated=len(held_out.images),
        texts=sum(map(len, held_out.texts)),
        notes=[*info.notes, *notes],
        seconds=seconds,
    )
    protocol = Protocol(
        k=request.k,
        caption=replace(request.caption, batch_size=request.batch_size or choose_batch_size()),
        itm_token=request.itm_token,
        on_notice=found.notes.append,
        post=tell,
    )
    for task in tasks:
        {"retrieval": _retrieve, "caption": _caption}[task](found, (med, tokenizer), held_out, protocol)
        lap(task)
    return found


def choose_batch_size() -> int:
    """Images, texts and pairs per forward pass if none is given: more on a GPU, whose memory a pass that does
    not fit halves."""
    import torch

    return 4 * BATCH_SIZE if torch.cuda.is_available() else BATCH_SIZE


def _load(request: EvaluationRequest) -> tuple[MED, Tokenizer, CheckpointInfo, str]:
    from capfilt.models.checkpoints.load import load_checkpoint
    from capfilt.models.tasks.placement import prepare_model

    path = ensure_local(request.checkpoint, "CHECKPOINT")
    words = None if request.tokenizer is None else ensure_local(request.tokenizer, "--tokenizer")
    med, tokenizer, info = load_checkpoint(path, None, image_size=request.caption.image_size, tokenizer=words)
    med = prepare_model(med, tokenizer, "auto", request.caption.precision)
    return med, tokenizer, info, checkpoint_digest(path)[:16]


def _choose_tasks(request: EvaluationRequest, info: CheckpointInfo) -> tuple[list[Task], list[str]]:
    """The tasks to do, and a line about each one that is left out."""
    possible: list[Task] = [task for task in TASKS if info.parts in NEEDED[task]]
    wanted: list[Task] = possible if request.task is None else [request.task]
    missing = sorted(set(wanted) - set(possible))
    if missing or not possible:
        task = request.task or "retrieval"
        raise TestSetError(
            f'{request.checkpoint} is a "{info.parts}" and cannot be evaluated by --task {task}; '
            f"{_advice(possible, task)}"
        )
    left_out = [task for task in TASKS if request.task is None and task not in possible]
    return wanted, [f'no {task}: the checkpoint is a "{info.parts}"' for task in left_out]


def _advice(possible: Sequence[Task], task: Task) -> str:
    needed = " or ".join(f'"{parts}"' for parts in NEEDED[task])
    return f"use --task {possible[0]}, or a {needed}" if possible else f"give a {needed}, or a captioner"


def _check_prompt(caption: CaptionConfig, med: MED, tokenizer: Tokenizer) -> None:
    positions, new = med.config.text.max_positions, caption.sampling.max_new_tokens
    ids, _ = tokenizer.encode([caption.prompt], max_length=positions, first="dec", sep=False)
    if ids.shape[1] + new > positions:
        raise TestSetError(
            f"--prompt {caption.prompt[:40]!r}: its {ids.shape[1]} tokens and {new} new ones are more than "
            f"the {positions} positions of the decoder; give a shorter one"
        )


def _describe(med: MED) -> dict[str, Any]:
    weight = next(med.parameters())
    return {
        "image_size": med.config.vision.image_size,
        "device": weight.device.type,
        "precision": str(weight.dtype).removeprefix("torch."),
    }


def _read_held_out(
    request: EvaluationRequest, test_set: TestSet, tell: Callable[[str], None]
) -> HeldOutImages:
    total = len(test_set.images)
    folder = request.images or posixpath.dirname(request.data) or "."
    tell(f"reading {total:,} images")
    read = read_images(test_set.images, folder, lambda done: tell(f"reading {done:,} of {total:,} images"))
    held_out = HeldOutImages()
    for image, data in zip(test_set.images, read, strict=True):
        if data is not None:
            held_out.images.append(data)
            held_out.texts.append([text for text in image.row["texts"] if text.strip()])
            held_out.keys.append(str(image.image_id))
            held_out.sources.append("")
    if not held_out.images:
        first = test_set.images[0]
        raise TestSetError(
            f"--images {folder}: none of {total:,} images can be read (first: {first.status}, "
            f"{first.message}); give the folder in which the paths of {request.data} begin"
        )
    return held_out


def _retrieve(
    found: Evaluation, model: tuple[MED, Tokenizer], held_out: HeldOutImages, protocol: Protocol
) -> None:
    if not found.texts:
        found.notes.append("no retrieval: the images have no texts")
        return
    sizes = (("images", found.evaluated), ("texts", found.texts))
    small = " and ".join(f"the {size:,} {kind}" for kind, size in sizes if protocol.k > size)
    if small:
        found.notes.append(f"--k {protocol.k} is more than {small}: ITM ranks all of them")
    found.retrieval = measure_retrieval(*model, held_out, protocol)


def _caption(
    found: Evaluation, model: tuple[MED, Tokenizer], held_out: HeldOutImages, protocol: Protocol
) -> None:
    captions = write_captions(*model, held_out, protocol)
    read = {str(image.image_id): image for image in found.test_set.images if image.status == SUCCESS}
    found.captions = [{"image_id": read[key].image_id, "caption": text} for key, text in captions.items()]
    texts = {key: of_image for key, of_image in zip(held_out.keys, held_out.texts, strict=True) if of_image}
    without = len(held_out.keys) - len(texts)
    if without:
        scored = "captions are not scored" if not texts else f"captions of {without:,} images are not scored"
        found.notes.append(f"{scored}: these images have no text")
    if texts:
        protocol.post("scoring captions")
        found.caption, notes = _score(captions, texts)
        found.notes += notes
    for domain, keys in group_keys({key: read[key].domain for key in texts}).items():
        found.caption_by_domain[domain], _ = _score(captions, {key: texts[key] for key in keys})


def _score(
    captions: Mapping[str, str], texts: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], list[str]]:
    """The metrics of the captions of the images that have texts, and what has to be said about them."""
    from capfilt.pipeline.testset.java_metrics import compute_java_metrics

    scored = {key: captions[key] for key in texts}
    java, notes = compute_java_metrics(scored, texts)
    return compute_caption_metrics(scored, texts) | java, notes


def settings_of(request: EvaluationRequest) -> dict[str, Any]:
    """The settings that determine the figures."""
    caption = asdict(request.caption)
    kept = {name: caption[name] for name in ("prompt", "sampling", "precision", "image_size")}
    return {"k": request.k, "itm_token": request.itm_token, "limit": request.limit, "caption": kept}
