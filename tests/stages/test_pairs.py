"""The training stream: complete, seeded, resumable at any sample, the same for any reader."""

from collections import Counter
from itertools import islice

import pyarrow as pa
import pytest

from stages.pairs import PAIRS_SCHEMA, PairStream, Position, ShardRef, image_id

SHARDS = [ShardRef("web", n, "web") for n in range(5)] + [ShardRef("human", 0, "human")]


def read(items):
    """Seven images per shard, image i with i % 3 texts' worth of pairs (one image has none)."""
    for item in items:
        rows = [
            {
                "key": f"{item['source']}{item['shard']}-{i}",
                "source": item["source"],
                "image_id": i,
                "texts": [f"{item['source']}{item['shard']}-{i}-{t}" for t in range(i % 3)],
                "image": b"x",
            }
            for i in range(7)
        ]
        yield pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA)


def texts(seed=0, position=None, epochs=None, count=None, **more):
    stream = PairStream(SHARDS, read, seed=seed, window_shards=2, position=position, epochs=epochs, **more)
    return [pair.text for pair in islice(stream, count)]


def test_an_epoch_has_every_pair_once():
    expected = {f"{r.source}{r.shard}-{i}-{t}" for r in SHARDS for i in range(7) for t in range(i % 3)}
    assert Counter(texts(epochs=1)) == Counter(expected)


def test_epochs_differ_in_order_and_seeds_too():
    two = texts(epochs=2)
    half = len(two) // 2
    assert sorted(two[:half]) == sorted(two[half:]) and two[:half] != two[half:]
    assert texts(seed=1, epochs=2) != two


@pytest.mark.parametrize("taken", [0, 1, 13, 14, 36, 50, 71])
def test_resuming_goes_on_with_the_next_sample(taken):
    whole = texts(count=90)
    stream = PairStream(SHARDS, read, seed=0, window_shards=2)
    samples = iter(stream)
    for _ in range(taken):
        next(samples)
    assert texts(position=Position(**vars(stream.position)), count=90 - taken) == whole[taken:]


def test_order_does_not_depend_on_how_far_ahead_is_read_or_how_shards_are_listed():
    assert texts(count=80, lookahead=1) == texts(count=80)
    stream = PairStream(SHARDS[::-1], read, seed=0, window_shards=2)
    assert [p.text for p in islice(stream, 80)] == texts(count=80)


def test_equal_bytes_are_one_image():
    assert image_id("ab" * 32) == image_id("ab" * 32) != image_id("cd" * 32)
    assert 0 <= image_id("ab" * 32) < 2**63
