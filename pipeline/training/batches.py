"""NEW FILE."""

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
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.stages.pairs.stream import Pair, PairStream, Position


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch, in the pieces that are run one after another."""

    pieces: list[PairBatch]
    position: Position
    """Where the stream stands after the global batch."""


def assemble(
    stream: PairStream, step: int, spec: LearnerSpec, worker: Worker, augment: TrainAugment
) -> Iterator[Batch]:
    """Cut the stream into global batches, those into pieces, and make this worker's share of each piece: a
    contiguous slice, so that the keyed negatives of n workers are those of one worker with the whole piece."""
    size, pairs = spec.train.batch_size, iter(stream)
    pool = ThreadPoolExecutor(spec.train.decode_threads) if spec.train.decode_threads else None
    each: Callable[..., Any] = pool.map if pool is not None else map
    share = size // (spec.train.accumulate * worker.world)
    while chunk := list(islice(pairs, size)):
        position = replace(stream.position)
        pieces: list[PairBatch] = []
        for number in range(spec.train.accumulate):
            first = (number * worker.world + worker.rank) * share
            mine = chunk[first : first + share]
            seeds = [hash((spec.seed, step * size + first + i)) & 0x7FFFFFFF for i in range(share)]
            pixels = torch.stack(list(each(partial(_pixels, augment), mine, seeds)))
            ids = torch.tensor([pair.image_id for pair in mine])
            pieces.append({"pixels": pixels, "texts": [pair.text for pair in mine], "image_ids": ids})
        yield Batch(pieces, position)
        step += 1


def _pixels(augment: TrainAugment, pair: Pair, seed: int) -> torch.Tensor:
    return augment(decode_image(pair.image), seed)


def prefetch(batches: Iterator[Batch], depth: int = 2) -> Iterator[Batch]:
    """The same batches, made by a thread while the step before them runs. Its error is raised here."""
    made: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=depth)

    def work() -> None:
        try:
            for batch in batches:
                made.put(batch)
            made.put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            made.put(error)

    threading.Thread(target=work, daemon=True, name="capfilt-batches").start()
    while (item := made.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item
