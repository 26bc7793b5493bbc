"""Cut the stream of pairs into global batches; decode, augment and prefetch this worker's part of each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch

from capfilt.cluster.training.trainer import Worker
from capfilt.models.images.decode import decode_image
from capfilt.models.training.augment import TrainAugment
from capfilt.models.training.objectives import PairBatch
from capfilt.pipeline.training.seeds import derive_seed
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.stages.pairs.stream import Pair, PairStream, Position

PREFETCH_BATCHES = 2
"""Batches that are prepared while a step runs."""


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch, in the pieces of gradient accumulation."""

    pieces: list[PairBatch]
    position: Position
    """Position of the stream after the global batch."""


def assemble_batches(
    stream: PairStream, step: int, spec: LearnerSpec, worker: Worker, augment: TrainAugment
) -> Iterator[Batch]:
    """Cut the stream into global batches and yield this worker's part of each.

    A global batch is cut into pieces, and each piece into contiguous slices, one per worker: the pieces of n
    workers together are those of one worker, so that negatives, which are keyed by row, do not depend on the
    number of workers.

    Args:
        stream: pairs, endless in training.
        step: number of the first batch; with the seed it determines the augmentation of each image.
        spec: batch size, accumulation, seed, decoder threads.
        worker: whose part to yield.
        augment: applied to each image.
    """
    batch_size, pairs = spec.train.batch_size, iter(stream)
    pool = ThreadPoolExecutor(spec.train.decode_threads) if spec.train.decode_threads else None
    map_pairs: Callable[..., Any] = pool.map if pool is not None else map
    slice_size = batch_size // (spec.train.accumulate * worker.world_size)
    while global_batch := list(islice(pairs, batch_size)):
        position = replace(stream.position)
        pieces: list[PairBatch] = []
        for number in range(spec.train.accumulate):
            first = (number * worker.world_size + worker.rank) * slice_size
            own = global_batch[first : first + slice_size]
            samples = range(step * batch_size + first, step * batch_size + first + slice_size)
            seeds = [derive_seed(spec.seed, "augment", sample) for sample in samples]
            pixels = torch.stack(list(map_pairs(partial(_decode_and_augment, augment), own, seeds)))
            image_ids = torch.tensor([pair.image_id for pair in own])
            pieces.append({"pixels": pixels, "texts": [pair.text for pair in own], "image_ids": image_ids})
        yield Batch(pieces, position)
        step += 1


def _decode_and_augment(augment: TrainAugment, pair: Pair, seed: int) -> torch.Tensor:
    return augment(decode_image(pair.image), seed)


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
