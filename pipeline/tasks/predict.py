"""What a model says to the test samples of a downstream task; runs on a worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from capfilt.cluster.board import NodeStatus
from capfilt.pipeline.config.tasks import PARTS, Kind
from capfilt.stages.bootstrap.caption import CaptionConfig
from capfilt.stages.storage.artifacts import ensure_local
from capfilt.stages.storage.store import Store
from capfilt.stages.taskdata.rows import ReadTaskRows

if TYPE_CHECKING:
    from capfilt.models.network.med import MED
    from capfilt.models.network.tokenizer import Tokenizer
    from capfilt.pipeline.evaluation.held_out import HeldOutImages

log = logging.getLogger(__name__)

NAMED_CLASSES = 5
"""Classes of an image that are kept, for the share that is right among the best five."""


@dataclass(frozen=True, kw_only=True)
class PredictJob:
    """A model and some of the test samples; picklable."""

    label: str
    """The model in messages."""
    key: str
    """The config key that names the checkpoint, for messages."""
    run_dir: Store
    task: str
    kind: Kind
    checkpoint: str
    tokenizer: str
    """Address of a tokenizer folder; "" for that of the checkpoint."""
    image_size: int | None
    """None: that of the checkpoint."""
    frames: int = 0
    """Frames of each video; 0 for images."""
    shards: tuple[int, ...]
    k: int
    answers: tuple[str, ...]
    """vqa: the answers that are ranked."""
    classes: tuple[tuple[str, str], ...] = ()
    """classification: (label, class) of all classes."""
    templates: tuple[str, ...] = ()
    """classification: prompts of a class."""
    caption: CaptionConfig
    seed: int
    status: NodeStatus | None = None
    """Receives progress and notices; None sends notices to the log."""

    @property
    def batch_size(self) -> int:
        """Images or videos per forward pass, of which a video is as many images as it has frames."""
        return max(1, self.caption.batch_size // max(1, self.frames))

    def post(self, line: str) -> None:
        """Show what is being done."""
        if self.status is not None:
            self.status.post(**{self.label: line})

    def notify(self, line: str) -> None:
        """Show a notice to the user."""
        if self.status is None:
            log.warning("%s: %s", self.label, line)
        else:
            self.status.add_notice(f"{self.label}: {line}")


def predict(job: PredictJob) -> list[dict[str, Any]]:
    """What the model says to each sample, in the order of the shards.

    Returns:
        vqa, video_qa: {"id", "answers", "group", "ranked", "generated"} for each question; "ranked" is None
        without answers to rank. nlvr2: {"id", "label", "probability"} for each statement. caption: {"id",
        "caption", "texts"} for each image. retrieval, video_retrieval: one row with the recalls,
        {"retrieval": {metric: percent}}. visdial: {"id", "label", "relevance", "scores"} for each question,
        with the scores of its candidates. classification: {"id", "answers", "ranked", "itc"} for each image:
        its labels, and the best five of the model; "itc" those without ITM, None if it ranked none.

    Raises:
        OutOfMemory: a single sample at a time does not fit.
    """
    import torch

    from capfilt.models.checkpoints.load import load_checkpoint

    job.post("reading the model")
    torch.manual_seed(job.seed)  # a start lacks some tensors of the task's model, which are drawn
    path = ensure_local(job.checkpoint, job.key, job.run_dir)
    words = ensure_local(job.tokenizer, f"{job.key}.tokenizer", job.run_dir) if job.tokenizer else None
    med, tokenizer, _ = load_checkpoint(path, PARTS[job.kind], image_size=job.image_size, tokenizer=words)
    return predict_with(job, med, tokenizer)


def predict_with(job: PredictJob, med: MED, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """As `predict`, with a model that is loaded and has the parts of the task."""
    match job.kind:
        case "vqa" | "video_qa":
            return list(_answer(job, med, tokenizer))
        case "nlvr2":
            return list(_judge(job, med, tokenizer))
        case "retrieval" | "video_retrieval":
            return _retrieve(job, med, tokenizer)
        case "caption":
            return _caption(job, med, tokenizer)
        case "classification":
            return list(_classify(job, med, tokenizer))
        case "visdial":
            return list(_rank_dialogs(job, med, tokenizer))


def _rows(job: PredictJob) -> Iterator[list[dict[str, Any]]]:
    """The rows of each shard that have images."""
    reader = ReadTaskRows(job.run_dir)
    for number, shard in enumerate(job.shards):
        job.post(f"{number:,} of {len(job.shards):,} shards")
        yield reader.read(f"{job.task}/test", shard).to_pylist()


def _answer(job: PredictJob, med: MED, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    from capfilt.models.tasks.answerer import Answerer
    from capfilt.models.tasks.options import AnswererOptions

    options = AnswererOptions(k=job.k, batch_size=job.batch_size, precision=job.caption.precision)
    answerer = Answerer(med, tokenizer, options)
    answerer.batches.on_notice = job.notify
    for rows in _rows(job):
        found, samples = _flatten(rows)
        questions = [sample["text"] for sample in samples]
        images = [_image_or_video(job, each) for each in found]
        ranked = answerer.rank(images, questions, job.answers) if job.answers else [None] * len(samples)
        generated = answerer.answer(images, questions)
        for sample, best, free in zip(samples, ranked, generated, strict=True):
            kept = {name: sample[name] for name in ("id", "answers", "group")}
            yield kept | {"ranked": None if best is None else best.text, "generated": free.text}


def _image_or_video(job: PredictJob, images: Sequence[bytes]) -> bytes | tuple[bytes, ...]:
    """The image of a row, or the frames of its video."""
    return tuple(images) if job.frames else images[0]


def _judge(job: PredictJob, med: MED, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    from capfilt.models.tasks.options import JudgeOptions
    from capfilt.models.tasks.pair_judge import PairJudge

    options = JudgeOptions(batch_size=job.caption.batch_size, precision=job.caption.precision)
    judge = PairJudge(med, tokenizer, options)
    judge.batches.on_notice = job.notify
    for rows in _rows(job):
        images, samples = _flatten(rows)
        found = judge.judge([(pair[0], pair[1]) for pair in images], [sample["text"] for sample in samples])
        for sample, probability in zip(samples, found, strict=True):
            yield {"id": sample["id"], "label": sample["label"], "probability": probability}


def _rank_dialogs(job: PredictJob, med: MED, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    from capfilt.models.tasks.dialog_ranker import DialogRanker, DialogTurn
    from capfilt.models.tasks.options import DialogOptions

    options = DialogOptions(batch_size=job.caption.batch_size, precision=job.caption.precision)
    ranker = DialogRanker(med, tokenizer, options)
    ranker.batches.on_notice = job.notify
    for rows in _rows(job):
        turns = [
            [
                DialogTurn(
                    history=sample["context"][1:], question=sample["text"], candidates=sample["answers"]
                )
                for sample in row["samples"]
            ]
            for row in rows
        ]
        captions = [row["samples"][0]["context"][0] for row in rows]
        found = ranker.score([row["images"][0] for row in rows], captions, turns)
        for row, of_image in zip(rows, found, strict=True):
            for sample, scores in zip(row["samples"], of_image, strict=True):
                kept = {name: sample[name] for name in ("id", "label", "relevance")}
                yield kept | {"scores": scores}


def _flatten(rows: Sequence[dict[str, Any]]) -> tuple[list[list[bytes]], list[dict[str, Any]]]:
    """The images of each sample, and the samples."""
    pairs = [(row["images"], sample) for row in rows for sample in row["samples"]]
    return [images for images, _ in pairs], [sample for _, sample in pairs]


def _retrieve(job: PredictJob, med: MED, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    from capfilt.models.tasks.placement import prepare_model
    from capfilt.pipeline.evaluation.held_out import Protocol, measure_retrieval

    med = prepare_model(med, tokenizer, "auto", job.caption.precision)
    protocol = Protocol(
        k=job.k,
        caption=replace(job.caption, batch_size=job.batch_size),
        median_rank=bool(job.frames),
        on_notice=job.notify,
        post=job.post,
    )
    return [{"retrieval": measure_retrieval(med, tokenizer, _held_out(job), protocol)}]


def _caption(job: PredictJob, med: MED, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    from capfilt.pipeline.evaluation.held_out import Protocol, write_captions

    held_out, caption = _held_out(job), replace(job.caption, captions_per_image=1)
    protocol = Protocol(k=job.k, caption=caption, seed=job.seed, on_notice=job.notify, post=job.post)
    captions = write_captions(med, tokenizer, held_out, protocol)
    return [
        {"id": key, "caption": captions[key], "texts": texts, "group": domain}
        for key, texts, domain in zip(held_out.keys, held_out.texts, held_out.sources, strict=True)
    ]


def _classify(job: PredictJob, med: MED, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    from capfilt.models.tasks.options import MatcherOptions
    from capfilt.models.tasks.ranker import Ranker, fill_templates

    options = MatcherOptions(batch_size=job.caption.batch_size, precision=job.caption.precision)
    ranker = Ranker(med, tokenizer, options)
    ranker.batches.on_notice = job.notify
    labels = [label for label, _ in job.classes]
    candidates = ranker.encode(fill_templates([name for _, name in job.classes], job.templates))
    for rows in _rows(job):
        images, samples = _flatten(rows)
        found = ranker.rank([each[0] for each in images], candidates, k=job.k, top=max(job.k, NAMED_CLASSES))
        for sample, ranked in zip(samples, found, strict=True):
            by_itc = sorted(ranked, key=lambda each: -each.itc_sim)
            best, itc = ([labels[each.index] for each in order[:NAMED_CLASSES]] for order in (ranked, by_itc))
            kept = {name: sample[name] for name in ("id", "answers")}
            yield kept | {"ranked": best, "itc": itc if job.k else None}


def _held_out(job: PredictJob) -> HeldOutImages:
    """All test images of the task with their captions."""
    from capfilt.models.caption_text import normalize_caption
    from capfilt.pipeline.evaluation.held_out import HeldOutImages

    held_out = HeldOutImages()
    for rows in _rows(job):
        for row in rows:
            held_out.images.append(_image_or_video(job, row["images"]))
            held_out.texts.append([normalize_caption(sample["text"]) for sample in row["samples"]])
            held_out.keys.append(row["key"])
            held_out.sources.append(row["samples"][0]["group"] if job.kind == "caption" else "")
    return held_out
