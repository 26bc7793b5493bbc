"""`capfilt evaluate` for vqa, nlvr2 and classification: a checkpoint on the test file of a task.

The samples and their images are written into a temporary folder, as a run writes them, and the code of runs
reads them there: the figures are those of a run.
"""

from __future__ import annotations

import posixpath
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import ValidationError

from capfilt.models.checkpoints.files import checkpoint_digest
from capfilt.models.config import Parts, Precision
from capfilt.models.tasks.options import TEMPLATES
from capfilt.pipeline.config.tasks import TaskSection
from capfilt.pipeline.tasks.data import SHARD_RECORDS, read_split
from capfilt.pipeline.tasks.figures import compute_chance, compute_figures, result_files
from capfilt.pipeline.tasks.predict import PredictJob, predict_with
from capfilt.pipeline.tasks.shards import ShardJob, write_shard
from capfilt.pipeline.testset.evaluate import choose_batch_size
from capfilt.stages.bootstrap.caption import CaptionConfig
from capfilt.stages.errors import UserError
from capfilt.stages.status import PENDING, SUCCESS
from capfilt.stages.storage.artifacts import check_artifact, ensure_local
from capfilt.stages.storage.store import Store
from capfilt.stages.taskdata.labels import labels_of, list_classes, name_classes
from capfilt.stages.taskdata.records import TaskRecord, read_json

TaskKind = Literal["vqa", "nlvr2", "classification"]
KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
NEEDED: dict[TaskKind, tuple[Parts, ...]] = {
    "vqa": ("vqa",),
    "nlvr2": ("nlvr",),
    "classification": ("filter", "pretrain"),
}
"""Which parts of a MED can do a task."""
OPTIONS: dict[str, tuple[TaskKind, ...]] = {
    "annotations": ("vqa",),
    "image_name": ("vqa",),
    "answers": ("vqa",),
    "classes": ("classification",),
    "templates": ("classification",),
}
"""Options that only some tasks have."""
_SECTION = "evaluation"
_KEYS = {
    f"{_SECTION}.data.test.file": "--data",
    f"{_SECTION}.data.test.annotations": "--annotations",
    f"{_SECTION}.data.test.image_name": "--image-name",
}


class TaskError(UserError):
    """A task cannot be evaluated; the message names the option and says what to give."""


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """What `capfilt evaluate` is asked for."""

    task: TaskKind
    checkpoint: str
    data: str
    images: str | None = None
    annotations: str | None = None
    image_name: str | None = None
    answers: str | None = None
    classes: str | None = None
    templates: tuple[str, ...] = ()
    k: int | None = None
    limit: int | None = None
    split: None = None
    image_size: int | None = None
    precision: Precision = "auto"
    batch_size: int | None = None
    tokenizer: str | None = None


@dataclass
class TaskEvaluation:
    """What `evaluate_task` has found."""

    request: TaskRequest
    model: dict[str, Any]
    records: list[TaskRecord]
    samples: dict[str, int]
    """By status."""
    scores: dict[str, float]
    """In percent, the metric first."""
    files: dict[str, str] = field(default_factory=dict)
    """{name: content} in the form of the challenge."""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[TaskRecord]:
        """Records that could not be used."""
        return [record for record in self.records if record.status not in (PENDING, SUCCESS)]


def check_task(request: TaskRequest, tell: Callable[[str], None]) -> list[TaskRecord]:
    """Read the test file, and check what can be known before torch is loaded.

    Raises:
        TaskError, TaskDataError, ManifestError, ConfigError, ArtifactError: a mistake in the options.
    """
    from capfilt.pipeline.config.load import refuse_credentials

    given = {"CHECKPOINT": request.checkpoint, "--data": request.data, "--images": request.images or ""}
    for name, address in given.items():
        refuse_credentials(address, name)
    for option, kinds in OPTIONS.items():
        if getattr(request, option) and request.task not in kinds:
            name = option.removesuffix("s" if option == "templates" else "").replace("_", "-")
            raise TaskError(f"--{name}: only for --task {kinds[0]}; remove it")
    check_artifact(request.checkpoint, "CHECKPOINT")
    if request.tokenizer is not None:
        check_artifact(request.tokenizer, "--tokenizer")
    if request.task == "vqa" and request.answers is None:
        raise TaskError(
            "--answers: missing; give a JSON list of the answers to rank, such as BLIP's answer_list.json or "
            "records/tasks/NAME/answers.json of a run"
        )
    tell(f"reading {request.data}")
    section = _section_of(request)
    with _options_in_messages():
        records = [record for _, record in read_split(section, "test", _SECTION)]
    if not any(record.status == PENDING for record in records):
        first = f" (first: {records[0].message})" if records else ""
        raise TaskError(f"--data {request.data}: no record can be used{first}; give the file as handed out")
    return records


def _section_of(request: TaskRequest) -> TaskSection:
    """The section of a config for this request."""
    images = request.images
    if images is None:
        is_folder = request.task == "classification" and list_classes(request.data) is not None
        images = request.data if is_folder else posixpath.dirname(request.data) or "."
    test = {"file": request.data, "images": images, "limit": request.limit}
    if request.task == "vqa":
        test |= {"annotations": request.annotations, "image_name": request.image_name}
    evaluate: dict[str, Any] = {"k": request.k or None}
    if request.task == "vqa":
        evaluate["answers"] = request.answers
    if request.task == "nlvr2":
        evaluate = {}
    if request.task == "classification":
        evaluate |= {"classes": request.classes, "templates": request.templates or TEMPLATES}
    values = {"kind": request.task, "data": {"test": test}, "evaluate": evaluate}
    try:
        return TaskSection.model_validate(values)
    except ValidationError as error:
        line = error.errors()[0]["msg"].removeprefix("Value error, ")
        line = line.replace("evaluate.templates", "--template")
        raise TaskError(line if line.startswith("--") else f"--image-name: {line}") from error


@contextmanager
def _options_in_messages() -> Iterator[None]:
    """Errors name the options of the command in place of keys of a config."""
    try:
        yield
    except UserError as error:
        line = str(error)
        for key, option in _KEYS.items():
            line = line.replace(key, option)
        raise TaskError(line) from error


def evaluate_task(
    request: TaskRequest, records: list[TaskRecord], tell: Callable[[str], None]
) -> TaskEvaluation:
    """Evaluate a checkpoint on the records of a task whose request is checked (`check_task`).

    Raises:
        TaskError: no image can be read, or the checkpoint cannot do the task.
        CheckpointError: it cannot be loaded.
        OutOfMemory: a single sample at a time does not fit.
    """
    from capfilt.models.checkpoints.load import load_checkpoint

    start, section = time.monotonic(), _section_of(request)
    tell(f"reading {request.checkpoint}")
    path = ensure_local(request.checkpoint, "CHECKPOINT")
    words = None if request.tokenizer is None else ensure_local(request.tokenizer, "--tokenizer")
    med, tokenizer, info = load_checkpoint(path, None, image_size=request.image_size, tokenizer=words)
    if info.parts not in NEEDED[request.task]:
        needed = " or ".join(f'"{parts}"' for parts in NEEDED[request.task])
        raise TaskError(
            f'{request.checkpoint} is a "{info.parts}" and cannot be evaluated by --task {request.task}; '
            f"give a {needed}"
        )
    with tempfile.TemporaryDirectory(prefix="capfilt-evaluate-") as folder:
        samples, shards = _write_samples(request, section, records, Store(folder), tell)
        job = _job_of(request, section, records, Store(folder), shards)
        tell(f"evaluating {samples[SUCCESS]:,} samples")
        rows = predict_with(job, med, tokenizer)
    scores = compute_figures(request.task, rows)
    return TaskEvaluation(
        request=request,
        model={
            "format": info.format,
            "parts": info.parts,
            "digest": checkpoint_digest(path)[:16],
            "image_size": med.config.vision.image_size,
        },
        records=records,
        samples=samples,
        scores=scores | (compute_chance(request.task, rows) if scores else {}),
        files=result_files(request.task, rows),
        notes=[*info.notes, *([] if scores else ["no sample says what is right: there are no figures"])],
        seconds=round(time.monotonic() - start, 3),
    )


def _write_samples(
    request: TaskRequest,
    section: TaskSection,
    records: list[TaskRecord],
    store: Store,
    tell: Callable[[str], None],
) -> tuple[dict[str, int], int]:
    """Write the samples with their images in shards; (samples by status, shards)."""
    samples: Counter[str] = Counter()
    starts = range(0, len(records), SHARD_RECORDS)
    for shard, first in enumerate(starts):
        tell(f"reading the images of {first:,} of {len(records):,} records")
        job = ShardJob(
            run_dir=store,
            task=_SECTION,
            kind=request.task,
            split="test",
            shard=shard,
            records=tuple(records[first : first + SHARD_RECORDS]),
            images=section.data.test.images,
            identity="",
        )
        samples.update(write_shard(job).samples)
    if not samples[SUCCESS]:
        first_bad = next(record for record in records if record.message is not None)
        raise TaskError(
            f"--images {section.data.test.images}: no image can be read (first: {first_bad.status}, "
            f"{first_bad.message}); give the folder in which the paths of {request.data} begin"
        )
    return dict(sorted(samples.items())), len(starts)


def _job_of(
    request: TaskRequest, section: TaskSection, records: list[TaskRecord], store: Store, shards: int
) -> PredictJob:
    answers: list[str] = []
    if request.answers is not None:
        found = read_json(request.answers, "--answers")
        if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
            raise TaskError(f"--answers {request.answers}: no list of answers; give a JSON list of texts")
        answers = list(dict.fromkeys(found))
    classes = {}
    if request.task == "classification":
        classes = name_classes(labels_of(records), request.classes, "--classes")
    return PredictJob(
        label=request.checkpoint,
        key="CHECKPOINT",
        run_dir=store,
        task=_SECTION,
        kind=request.task,
        checkpoint=request.checkpoint,
        tokenizer=request.tokenizer or "",
        image_size=request.image_size,
        shards=tuple(range(shards)),
        k=section.k,
        answers=tuple(answers),
        classes=tuple(classes.items()),
        templates=section.evaluate.templates,
        caption=CaptionConfig(
            batch_size=request.batch_size or choose_batch_size(), precision=request.precision
        ),
        seed=0,
    )
