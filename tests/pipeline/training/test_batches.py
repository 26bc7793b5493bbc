"""How the batches of a worker are cut into pieces, augmented and prepared ahead."""

import io
import threading
from dataclasses import replace
from functools import partial
from itertools import count, islice

import pytest
import torch
from PIL import Image

from capfilt.cluster.training.trainer import Worker
from capfilt.pipeline.training.batches import PREFETCH_BATCHES, Batch, assemble_batches, make_pairs, prefetch
from capfilt.pipeline.training.learner import PairLearner
from capfilt.pipeline.training.seeds import derive_seed
from capfilt.stages.pairs.order import Position
from capfilt.stages.pairs.samples import Pair
from capfilt.stages.pairs.stream import EpochBytes, OwnBatch
from tests.pipeline.training.training_scene import BATCH_SIZE, WORKER


def first_batch(scene, worker=WORKER, **train):
    return next(PairLearner(scene.spec(**train), worker).open_batches())


def test_slices_of_two_workers_make_up_the_pieces_of_one(scene):
    whole = first_batch(scene, accumulate=2)
    slices = [first_batch(scene, Worker(rank, 2, WORKER.device), accumulate=2) for rank in (0, 1)]
    assert whole.position == slices[0].position == slices[1].position
    for number, piece in enumerate(whole.pieces):
        parts = [batch.pieces[number] for batch in slices]
        assert [text for part in parts for text in part["texts"]] == piece["texts"]
        assert torch.equal(torch.cat([part["pixels"] for part in parts]), piece["pixels"])
        assert torch.equal(torch.cat([part["image_ids"] for part in parts]), piece["image_ids"])


def test_decoder_threads_change_nothing(scene):
    for one, two in zip(first_batch(scene).pieces, first_batch(scene, decode_threads=3).pieces, strict=True):
        assert one["texts"] == two["texts"] and torch.equal(one["pixels"], two["pixels"])


def numbered_parts(image, worker=WORKER, pieces=1, first=0):
    """The part of a worker of endless batches of pairs whose text is their number in the stream."""
    size = BATCH_SIZE // (worker.world_size * pieces)
    for batch in count():
        starts = [
            first + batch * BATCH_SIZE + (n * worker.world_size + worker.rank) * size for n in range(pieces)
        ]
        numbers = [start + i for start in starts for i in range(size)]
        pairs = [Pair(image, str(number), number, str(number)) for number in numbers]
        yield OwnBatch(pairs, Position(offset=first + (batch + 1) * BATCH_SIZE), EpochBytes(read=batch))


class RecordsSeeds:
    """Stands for the augmentation."""

    def __init__(self):
        self.seeds = []

    def __call__(self, image, seed):
        self.seeds.append(seed)
        return torch.zeros(3, 2, 2, dtype=torch.uint8)


@pytest.fixture
def image():
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return stream.getvalue()


def test_batches_follow_the_stream_and_their_number_seeds_the_augmentation(scene, image):
    augment = RecordsSeeds()
    parts = numbered_parts(image, first=5 * BATCH_SIZE)
    batches = assemble_batches(parts, 5, scene.spec(), WORKER, partial(make_pairs, augment))
    for step in (5, 6):
        batch, first = next(batches), step * BATCH_SIZE
        assert batch.pieces[0]["texts"] == [str(first + i) for i in range(BATCH_SIZE)]
        assert batch.position == Position(offset=first + BATCH_SIZE)
        assert batch.epoch_bytes == EpochBytes(read=step - 5)
    samples = range(5 * BATCH_SIZE, 7 * BATCH_SIZE)
    assert augment.seeds == [derive_seed(scene.spec().seed, "augment", sample) for sample in samples]


def test_a_sample_has_the_same_seed_on_any_worker(scene, image):
    seeds = {}
    for rank in (0, 1):
        augment = RecordsSeeds()
        worker = replace(WORKER, rank=rank, world_size=2)
        spec = scene.spec(accumulate=2)
        parts = numbered_parts(image, worker, pieces=2)
        batches = assemble_batches(parts, 0, spec, worker, partial(make_pairs, augment))
        (piece, other) = next(batches).pieces
        seeds |= dict(zip(piece["texts"] + other["texts"], augment.seeds, strict=True))
    assert seeds == {str(i): derive_seed(spec.seed, "augment", i) for i in range(BATCH_SIZE)}


def numbered_batches(stop):
    for number in range(stop):
        yield Batch([], Position(offset=number))


def test_prefetched_batches_are_the_same():
    assert list(prefetch(numbered_batches(7))) == list(numbered_batches(7))


def test_only_a_few_batches_are_prepared_ahead():
    """Each holds the pixels of a batch."""
    made, enough = [], threading.Semaphore(0)

    def batches():
        for batch in numbered_batches(100):
            made.append(batch)
            enough.release()
            yield batch

    prefetched = prefetch(batches())
    next(prefetched)
    # One is consumed, some are in the queue, and one waits to be put there.
    for _ in range(PREFETCH_BATCHES + 2):
        assert enough.acquire(timeout=20)
    assert not enough.acquire(timeout=0.2) and len(made) == PREFETCH_BATCHES + 2


def test_an_error_is_raised_after_the_batches_before_it():
    def batches():
        yield from numbered_batches(3)
        raise OSError("gone")

    prefetched = prefetch(batches())
    assert [next(prefetched).position.offset for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone"):
        next(prefetched)


@pytest.mark.parametrize("per_image", ["one", "all"])
def test_drawn_texts_are_equal_for_any_number_of_workers_and_after_a_resumption(scene, per_image):
    spec = replace(scene.spec(accumulate=2), per_image=per_image, sentences="sample")

    def steps(workers, first=0, position=None):
        batches = []
        for rank in range(workers):
            learner = PairLearner(spec, Worker(rank, workers, WORKER.device))
            learner.step, learner.position = first, position or learner.position
            batches.append(islice(learner.open_batches(), 5 - first))
        return [
            ([t for n in range(2) for b in parts for t in b.pieces[n]["texts"]], parts[0].position)
            for parts in zip(*batches, strict=True)
        ]

    whole = steps(1)
    assert steps(2) == whole
    assert steps(2, first=2, position=whole[1][1]) == whole[2:]
