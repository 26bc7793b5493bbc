"""The learner of a downstream task: that of pairs, with other batches and another loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from random import Random

import pyarrow as pa
import torch

from capfilt.cluster.training.trainer import Worker
from capfilt.models.training.answering import AnswerBatch, AnswerObjective
from capfilt.models.training.augment import TrainAugment
from capfilt.models.training.dialog_matching import DialogBatch, DialogObjective
from capfilt.models.training.objectives import Objective, PairBatch
from capfilt.models.training.pair_judging import StatementBatch, StatementObjective, exchange_sides
from capfilt.pipeline.config.tasks import Kind
from capfilt.pipeline.training.batches import MakePiece, MapImages, decode_and_augment
from capfilt.pipeline.training.learner import PairLearner
from capfilt.pipeline.training.seeds import derive_seed
from capfilt.pipeline.training.spec import TaskSpec
from capfilt.stages.pairs.samples import SampleSource
from capfilt.stages.taskdata.rows import ReadTaskRows, TaskSample, iter_samples

OBJECTIVES: Mapping[Kind, type[Objective]] = {
    "vqa": AnswerObjective,
    "nlvr2": StatementObjective,
    "retrieval": Objective,
    "caption": Objective,
    "visdial": DialogObjective,
    "video_retrieval": Objective,
    "video_qa": AnswerObjective,
}


class TaskLearner(PairLearner):
    """Finetunes a model for a downstream task; resumes as exactly as `PairLearner` does."""

    spec: TaskSpec

    def __init__(self, spec: TaskSpec, worker: Worker) -> None:
        super().__init__(spec, worker)

    def build_objective(self) -> Objective:
        """The losses of the task, with the model in them."""
        objective = OBJECTIVES[self.spec.task_kind]
        return objective(self.med, self.tokenizer, self.spec.train.objective, self.spec.seed)

    def training_source(self) -> SampleSource:
        """Where the samples come from."""
        return SampleSource(
            name="training",
            run_dir=self.spec.run_dir,
            make_reader=ReadTaskRows,
            unpack=partial(_unpack, self.spec.task_kind),
        )

    def piece_maker(self, augment: TrainAugment) -> MakePiece:
        """What makes pieces of batches from the samples of the stream."""
        if self.spec.task_kind == "visdial":
            return partial(make_dialogs, augment, self.spec.negatives)
        return partial(PIECES[self.spec.task_kind], augment)


def _unpack(kind: Kind, tables: Iterable[pa.Table], epoch: int) -> Iterator[TaskSample]:
    """The samples of tables, the same ones in every epoch."""
    return iter_samples(tables, kind)


def make_questions(
    augment: TrainAugment, samples: Sequence[TaskSample], seeds: Sequence[int], map_images: MapImages
) -> AnswerBatch:
    """Questions with their different answers. An answer's weight is the share of annotators who gave it,
    times the weight of the sample."""
    answers = [Counter(answer.lower() for answer in sample.answers) for sample in samples]
    return {
        "pixels": _pixels_of(augment, samples, seeds, map_images),
        "questions": [sample.text for sample in samples],
        "answers": [list(counts) for counts in answers],
        "weights": [
            [sample.weight * count / counts.total() for count in counts.values()]
            for sample, counts in zip(samples, answers, strict=True)
        ],
    }


def make_statements(
    augment: TrainAugment, samples: Sequence[TaskSample], seeds: Sequence[int], map_images: MapImages
) -> StatementBatch:
    """Statements with their two images. In half of the samples the images change places, and "left" and
    "right" in the sentence with them, as the reference trains."""
    changed = [derive_seed(seed, "exchange") % 2 == 1 for seed in seeds]
    pairs = [
        sample.images[::-1] if change else sample.images
        for sample, change in zip(samples, changed, strict=True)
    ]
    images = [pair[i] for i in (0, 1) for pair in pairs]
    of_images = [derive_seed(seed, "image", i) for i in (0, 1) for seed in seeds]
    texts = [
        exchange_sides(sample.text) if change else sample.text
        for sample, change in zip(samples, changed, strict=True)
    ]
    labels = torch.tensor([sample.label for sample in samples])
    return {"pixels": _pixels(augment, images, of_images, map_images), "texts": texts, "labels": labels}


def make_dialogs(
    augment: TrainAugment,
    negatives: int,
    samples: Sequence[TaskSample],
    seeds: Sequence[int],
    map_images: MapImages,
) -> DialogBatch:
    """Questions of dialogs, each with its answer and as many drawn candidates that are false. A draw repeats
    a candidate only where there are too few."""
    answers = []
    for sample, seed in zip(samples, seeds, strict=True):
        right = sample.answers[sample.label]
        wrong = list(dict.fromkeys(answer for answer in sample.answers if answer != right))
        Random(derive_seed(seed, "negatives")).shuffle(wrong)
        answers.append([right, *islice(cycle(wrong), negatives)])
    return {
        "pixels": _pixels(augment, [sample.images[0] for sample in samples], seeds, map_images),
        "captions": [sample.context[0] for sample in samples],
        "histories": [[*sample.context[1:], sample.text] for sample in samples],
        "answers": answers,
    }


def make_captioned(
    augment: TrainAugment, samples: Sequence[TaskSample], seeds: Sequence[int], map_images: MapImages
) -> PairBatch:
    """Captions with their images or videos."""
    return {
        "pixels": _pixels_of(augment, samples, seeds, map_images),
        "texts": [sample.text for sample in samples],
        "image_ids": torch.tensor([sample.image_id for sample in samples]),
    }


def _pixels_of(
    augment: TrainAugment, samples: Sequence[TaskSample], seeds: Sequence[int], map_images: MapImages
) -> torch.Tensor:
    """uint8 pixels [B, 3, S, S] of images, or [B, F, 3, S, S] of videos, whose frames are augmented alike."""
    frames = len(samples[0].images)
    flat = [image for sample in samples for image in sample.images]
    pixels = _pixels(augment, flat, [seed for seed in seeds for _ in range(frames)], map_images)
    return pixels if frames == 1 else pixels.unflatten(0, (len(samples), frames))


def _pixels(
    augment: TrainAugment, images: Sequence[bytes], seeds: Sequence[int], map_images: MapImages
) -> torch.Tensor:
    return torch.stack(list(map_images(partial(decode_and_augment, augment), images, seeds)))


Samples = Sequence[TaskSample]
PIECES: Mapping[Kind, Callable[[TrainAugment, Samples, Sequence[int], MapImages], object]] = {
    "vqa": make_questions,
    "nlvr2": make_statements,
    "retrieval": make_captioned,
    "caption": make_captioned,
    "video_retrieval": make_captioned,
    "video_qa": make_questions,
}
