"""Decode, augment and prefetch a worker's part of each global batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from capfilt.cluster.training.trainer import Worker
from capfilt.models.images.decode import decode_image
from capfilt.models.training.augment import TrainAugment
from capfilt.models.training.objectives import PairBatch
from capfilt.pipeline.training.seeds import derive_seed
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.stages.pairs.order import Position
from capfilt.stages.pairs.samples import Division, Pair
from capfilt.stages.pairs.stream import EpochBytes, OwnBatch

PREFETCH_BATCHES = 2
"""Batches that are prepared while a step runs."""


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch, in the pieces of gradient accumulation."""

    pieces: list[Any]
    """A `PairBatch` each, or what the objective of a downstream task takes."""
    position: Position
    """Position of the stream after the global batch."""
    epoch_bytes: EpochBytes = field(default_factory=EpochBytes)
    """What was read for it and the batches before it in the epoch."""


MapImages = Callable[..., Iterator[torch.Tensor]]
"""`map`, or the same in threads."""
MakePiece = Callable[[Sequence[Any], Sequence[int], MapImages], Any]
"""Makes a piece of a batch from its samples and the seed of the augmentation of each."""


def assemble_batches(
    batches: Iterable[OwnBatch], step: int, spec: LearnerSpec, worker: Worker, make_piece: MakePiece
) -> Iterator[Batch]:
    """Decode and augment this worker's part of each global batch.

    Args:
        batches: the worker's samples of each global batch, endless in training.
        step: number of the first batch; with the seed it determines the augmentation of each image.
        spec: batch size, accumulation, seed, decoder threads.
        worker: whose samples they are.
        make_piece: decodes, augments and collects; `partial(make_pairs, augment)` for pairs.
    """
    division = divide(spec, worker)
    pool = ThreadPoolExecutor(spec.train.decode_threads) if spec.train.decode_threads else None
    map_images: MapImages = pool.map if pool is not None else map
    size = division.slice_size
    for step_number, batch in enumerate(batches, start=step):
        pieces: list[Any] = []
        for number in range(division.pieces):
            own = batch.samples[number * size : (number + 1) * size]
            first = step_number * division.batch_size + (number * division.workers + worker.rank) * size
            seeds = [derive_seed(spec.seed, "augment", sample) for sample in range(first, first + size)]
            pieces.append(make_piece(own, seeds, map_images))
        yield Batch(pieces, batch.position, batch.epoch_bytes)


def divide(spec: LearnerSpec, worker: Worker) -> Division:
    """How the samples of a training are divided among its workers."""
    train = spec.train
    return Division(batch_size=train.batch_size, pieces=train.accumulate, workers=worker.world_size)


def make_pairs(
    augment: TrainAugment, pairs: Sequence[Pair], seeds: Sequence[int], map_images: MapImages
) -> PairBatch:
    """Pairs as the objective takes them."""
    images = [pair.image for pair in pairs]
    return {
        "pixels": torch.stack(list(map_images(partial(decode_and_augment, augment), images, seeds))),
        "texts": [pair.text for pair in pairs],
        "image_ids": torch.tensor([pair.image_id for pair in pairs]),
    }


def decode_and_augment(augment: TrainAugment, image: bytes, seed: int) -> torch.Tensor:
    """uint8 pixels [3, S, S] of an encoded image."""
    return augment(decode_image(image), seed)


def prefetch(batches: Iterator[Batch], depth: int = PREFETCH_BATCHES) -> Iterator[Batch]:
    """Yield the same batches, prepared by a thread that runs up to `depth` batches ahead.

    Raises:
        BaseException: whatever `batches` raises, after the batches before it.
    """
    prepared: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=depth)

    def fill_queue() -> None:
        try:
            for batch in batches:
                prepared.put(batch)
            prepared.put(None)
        except BaseException as error:  # passed to the consumer, which raises it
            prepared.put(error)

    threading.Thread(target=fill_queue, daemon=True, name="capfilt-batches").start()
    while (item := prepared.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
