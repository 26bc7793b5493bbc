"""Cut the stream of pairs into global batches; decode, augment and prefetch this worker's part of each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from typing import Any, Protocol

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

    pieces: list[Any]
    """A `PairBatch` each, or what the objective of a downstream task takes."""
    position: Position
    """Position of the stream after the global batch."""


MapImages = Callable[..., Iterator[torch.Tensor]]
"""`map`, or the same in threads."""
MakePiece = Callable[[Sequence[Any], Sequence[int], MapImages], Any]
"""Makes a piece of a batch from its samples and the seed of the augmentation of each."""


class Samples(Protocol):
    """A stream of samples, and the position after the last one."""

    @property
    def position(self) -> Position: ...

    def __iter__(self) -> Iterator[Any]: ...


class FilledEpoch:
    """The pairs of one epoch, in the same order each time. The first ones follow again at the end, until the
    last batch is full: each worker gets an equal part of it.

    Args:
        stream: of one epoch.
        batch_size: pairs of a batch.
    """

    def __init__(self, stream: PairStream, batch_size: int) -> None:
        self.stream, self.batch_size = stream, batch_size
        self.pairs = 0
        """Pairs of the epoch; known once it has been read."""

    @property
    def position(self) -> Position:
        return self.stream.position

    def __iter__(self) -> Iterator[Pair]:
        first: list[Pair] = []
        count = 0
        self.stream.position = Position()
        for pair in self.stream:
            if len(first) < self.batch_size:
                first.append(pair)
            count += 1
            yield pair
        self.pairs = count
        if first:
            yield from islice(cycle(first), -count % self.batch_size)


def assemble_batches(
    stream: Samples, step: int, spec: LearnerSpec, worker: Worker, make_piece: MakePiece
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
        make_piece: decodes, augments and collects; `partial(make_pairs, augment)` for pairs.
    """
    batch_size, pairs = spec.train.batch_size, iter(stream)
    pool = ThreadPoolExecutor(spec.train.decode_threads) if spec.train.decode_threads else None
    map_images: MapImages = pool.map if pool is not None else map
    slice_size = batch_size // (spec.train.accumulate * worker.world_size)
    while global_batch := list(islice(pairs, batch_size)):
        position = replace(stream.position)
        pieces: list[Any] = []
        for number in range(spec.train.accumulate):
            first = (number * worker.world_size + worker.rank) * slice_size
            own = global_batch[first : first + slice_size]
            samples = range(step * batch_size + first, step * batch_size + first + slice_size)
            seeds = [derive_seed(spec.seed, "augment", sample) for sample in samples]
            pieces.append(make_piece(own, seeds, map_images))
        yield Batch(pieces, position)
        step += 1


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
