"""Each sample goes to the one worker that trains on it, and each shard is read once for all of them."""

from collections import Counter
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest

from capfilt.stages.pairs.draw import DrawConfig
from capfilt.stages.pairs.order import Position
from capfilt.stages.pairs.parts import ShardRef, assign_parts
from capfilt.stages.pairs.read import PAIRS_SCHEMA, image_id
from capfilt.stages.pairs.samples import Division
from capfilt.stages.pairs.texts import weigh_texts
from tests.local_feed import LocalFeed
from tests.stages.pairs.former_stream import FormerStream
from tests.stages.pairs.streams import make_stream

# One source is smaller than a batch, one trains in parts, and shards differ in size.
SHARDS = [
    ShardRef("coco", 0, "human"),
    *(ShardRef("web", n, "web") for n in range(4)),
    *assign_parts([ShardRef("laion", n, "web") for n in range(3)], 2),
]
EPOCHS = 3
MIXED = {"web": 0.5, "synthetic": 1.5}
IMAGE_BYTES = 1000


def image_of(key):
    return bytes([int(key.split("-")[1])]) * IMAGE_BYTES


def make_reader(weights=None, per_image="all", reads=None):
    """Tables of 3 to 17 images, each of `IMAGE_BYTES`; images and texts occur again in other shards."""

    def read(items):
        for item in items:
            if reads is not None:
                reads[item["source"], item["shard"]] += 1
            rows = []
            for i in range(3 if item["source"] == "coco" else 9 + 4 * (item["shard"] % 3)):
                origins = ["human"] if item["kind"] == "human" else ["web", "synthetic", "web"][: i % 4]
                if not origins:
                    continue
                key = f"{item['source']}{item['shard']}-{i}"
                texts = [f"{key} text {n}. Sentence." if n else "a dog" for n in range(len(origins))]
                rows.append(
                    {
                        "key": key,
                        "source": item["source"],
                        "image_id": image_id(str(i)),
                        "texts": texts,
                        "weights": weigh_texts(origins, weights, per_image) if weights else None,
                        "image": image_of(key),
                    }
                )
            yield pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA)

    return read


def read_batches(monkeypatch, workers, *, read=None, position=None, first=0, count=None, **options):
    """For each global batch the part of each worker, of workers that share one feed."""
    feed = LocalFeed(monkeypatch)
    streams = [
        make_stream(
            SHARDS,
            read or make_reader(),
            workers=workers,
            rank=rank,
            request=lambda window, rank=rank: feed.request(window, rank),
            **options,
        ).batches(position or Position(), first)
        for rank in range(workers)
    ]
    found = []
    for parts in islice(zip(*streams, strict=True), count):
        if count is None and not options.get("once") and parts[0].position.epoch >= EPOCHS:
            break
        found.append(parts)
    return found


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("window_shards", [1, 3, 9])
@pytest.mark.parametrize("pieces", [1, 2])
def test_each_worker_has_its_slice_of_every_global_batch(monkeypatch, workers, window_shards, pieces):
    """Positions and order are those of a stream that one worker reads alone."""
    batch_size = 6 * workers * pieces
    order = {"window_shards": window_shards, "batch_size": batch_size, "pieces": pieces}
    former = FormerStream(SHARDS, make_reader(), **order)
    found = read_batches(monkeypatch, workers, **order)
    expected = [batch for batch in former.batches(EPOCHS + 1) if batch[1][0] < EPOCHS]
    assert len(found) == len(expected) > 3
    for parts, (texts, position) in zip(found, expected, strict=True):
        for rank, part in enumerate(parts):
            assert vars(part.position) == dict(zip(("epoch", "window", "offset"), position, strict=True))
            assert [pair.text for pair in part.samples] == former.texts_of(texts, rank, workers)
            assert all(
                pair.image == bytes([int(pair.key.split("-")[1])]) * IMAGE_BYTES for pair in part.samples
            )


@pytest.mark.parametrize("per_image", ["all", "one"])
@pytest.mark.parametrize("workers", [2, 5])
def test_weights_and_drawn_texts_are_those_of_one_worker(monkeypatch, per_image, workers):
    """`pretrain.texts` with weights of origins, one text of each image, and single sentences."""
    read = make_reader(MIXED, per_image)
    draw = DrawConfig(seed=4, per_image=per_image, sentences="sample")
    order = {"seed": 4, "window_shards": 3, "batch_size": 10, "draw": draw}
    former = FormerStream(SHARDS, read, **order)
    expected = [texts for texts, position in former.batches(EPOCHS + 1) if position[0] < EPOCHS]
    found = read_batches(monkeypatch, workers, read=read, **order)
    assert [[pair.text for part in parts for pair in part.samples] for parts in found] == expected


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 5), (5, 2)])
def test_a_resumption_is_exact_at_every_batch_with_another_number_of_workers(monkeypatch, before, after):
    """In the middle of a shard, of a window and of an epoch, and at their ends."""
    order = {"window_shards": 2, "batch_size": 30}
    whole = read_batches(monkeypatch, before, **order)
    texts = [[pair.text for part in parts for pair in part.samples] for parts in whole]
    for taken in range(1, len(whole)):
        rest = read_batches(
            monkeypatch,
            after,
            position=whole[taken - 1][0].position,
            first=taken * 30,
            count=len(whole) - taken,
            **order,
        )
        assert [[pair.text for part in parts for pair in part.samples] for parts in rest] == texts[taken:]


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("window_shards", [3, 9])
def test_every_shard_is_read_once_for_all_workers(monkeypatch, workers, window_shards):
    """In each epoch, or once if all are kept in memory; one window ahead of the last batch."""
    reads = Counter()
    read_batches(
        monkeypatch, workers, read=make_reader(reads=reads), window_shards=window_shards, batch_size=30
    )
    former = Counter()
    list(FormerStream(SHARDS, make_reader(reads=former), window_shards=window_shards).samples(EPOCHS))
    kept = window_shards >= len(SHARDS)
    assert set(reads) == set(former)
    for shard, count in former.items():
        assert reads[shard] == 1 if kept else count <= reads[shard] <= count + 1


@pytest.mark.parametrize("workers", [2, 5])
def test_a_worker_receives_its_own_samples_only(monkeypatch, workers):
    """Pickled, and each image once for all of its texts in a shard."""
    found = read_batches(monkeypatch, workers, window_shards=9, batch_size=30)
    for rank in range(workers):
        first = [parts[rank] for parts in found if parts[rank].position.epoch == 0]
        images = {pair.key for part in first for pair in part.samples}
        received = first[-1].epoch_bytes.received
        samples = sum(len(part.samples) for part in first)
        assert len(images) * IMAGE_BYTES < received < (len(images) + 5) * IMAGE_BYTES + 200 * samples


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [6, 30, 102, 216, 600])
def test_an_epoch_that_is_read_once_is_filled_up_with_its_first_samples(monkeypatch, workers, batch_size):
    order = {"window_shards": 2, "batch_size": batch_size}
    epoch = [text for (_, text), _ in FormerStream(SHARDS, make_reader(), window_shards=2).samples(1)]
    filled = -(-len(epoch) // batch_size) * batch_size
    expected = (epoch * (1 + filled // len(epoch)))[:filled]
    found = read_batches(monkeypatch, workers, once=True, **order)
    texts = [pair.text for parts in found for part in parts for pair in part.samples]
    assert texts == expected


def test_an_epoch_that_is_read_once_can_be_read_again_and_knows_its_size(monkeypatch):
    feed = LocalFeed(monkeypatch)
    stream = make_stream(
        SHARDS,
        make_reader(),
        request=lambda window: feed.request(window, 0),
        once=True,
        batch_size=7,
    )
    first, second = ([pair.text for batch in stream.batches() for pair in batch.samples] for _ in range(2))
    assert first == second
    assert stream.samples == sum(1 for _ in FormerStream(SHARDS, make_reader()).samples(1))


def test_an_epoch_without_samples_has_no_batch(monkeypatch):
    def read(items):
        for _ in items:
            yield PAIRS_SCHEMA.empty_table()

    assert read_batches(monkeypatch, 2, read=read, once=True, batch_size=4) == []


@pytest.mark.parametrize(
    ("batch_size", "pieces", "workers"), [(12, 1, 1), (12, 2, 3), (12, 3, 2), (12, 1, 12)]
)
def test_the_slices_of_a_batch_divide_it_evenly(batch_size, pieces, workers):
    division = Division(batch_size=batch_size, pieces=pieces, workers=workers)
    owners = division.workers_of(np.arange(5 * batch_size))
    size = batch_size // pieces // workers
    expected = [rank for _ in range(5 * pieces) for rank in range(workers) for _ in range(size)]
    assert owners.tolist() == expected
    assert Counter(owners.tolist()) == dict.fromkeys(range(workers), 5 * division.own)
