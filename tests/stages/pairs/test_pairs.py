"""The training stream: complete, seeded, resumable at any sample, the same for any reader."""

from collections import Counter
from itertools import islice

import pyarrow as pa
import pytest

from capfilt.stages.pairs.parts import PartsError, ShardRef, assign_parts, check_parts
from capfilt.stages.pairs.read import PAIRS_SCHEMA, image_id
from capfilt.stages.pairs.stream import PairStream, Position

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


def texts(seed=0, position=None, epochs=None, count=None, shards=SHARDS, window_shards=2, **more):
    stream = PairStream(
        shards, read, seed=seed, window_shards=window_shards, position=position, epochs=epochs, **more
    )
    return [pair.text for pair in islice(stream, count)]


def texts_of(refs):
    return {f"{r.source}{r.shard}-{i}-{t}" for r in refs for i in range(7) for t in range(i % 3)}


def test_an_epoch_has_every_pair_once():
    assert Counter(texts(epochs=1)) == Counter(texts_of(SHARDS))


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


# Two human shards train in every epoch; of seven web shards an epoch has those of one of three parts: 3, 2, 2.
HUMAN = [ShardRef("human", n, "human") for n in range(2)]
WEB = assign_parts([ShardRef("web", n, "web") for n in range(7)], 3)
WINDOWS = (2, 4, 100)  # many windows per epoch, one per epoch, the whole corpus kept in memory


def test_shards_are_dealt_to_parts_that_differ_by_one_at_the_most():
    assert [ref.part for ref in WEB] == [0, 1, 2, 0, 1, 2, 0]
    for shards, parts in ((5, 5), (11, 4), (3, 1)):
        dealt = Counter(
            ref.part for ref in assign_parts([ShardRef("web", n, "web") for n in range(shards)], parts)
        )
        assert len(dealt) == parts and max(dealt.values()) - min(dealt.values()) <= 1
    assert assign_parts(WEB[::-1], 3) == WEB, "the order in which shards are listed decides nothing"


@pytest.mark.parametrize("window_shards", WINDOWS)
def test_each_epoch_has_one_part_and_a_turn_of_the_parts_has_every_pair(window_shards):
    common = {"shards": HUMAN + WEB, "window_shards": window_shards}
    ends, seen = [len(texts(epochs=epochs, **common)) for epochs in range(1, 7)], texts(epochs=6, **common)
    for epoch, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        due = HUMAN + [ref for ref in WEB if ref.shard % 3 == epoch % 3]
        assert Counter(seen[start:end]) == Counter(texts_of(due))
    turn = Counter(seen[: ends[2]])
    assert {turn[text] for text in texts_of(WEB)} == {1} and {turn[text] for text in texts_of(HUMAN)} == {3}
    assert seen[: ends[0]] != seen[ends[2] : ends[3]], "the same part in another order"


@pytest.mark.parametrize("window_shards", WINDOWS)
def test_resuming_in_parts_goes_on_with_the_next_sample_from_everywhere(window_shards):
    common = {"shards": HUMAN + WEB, "window_shards": window_shards}
    whole = texts(epochs=4, **common)
    stream = PairStream(HUMAN + WEB, read, seed=0, window_shards=window_shards)
    for taken, _ in enumerate(islice(stream, len(whole)), start=1):
        position = Position(**vars(stream.position))
        assert texts(position=position, count=len(whole) - taken, **common) == whole[taken:]


def test_parts_leave_the_order_of_other_corpora_as_it_was():
    assert texts(epochs=2, shards=HUMAN + assign_parts(WEB, 1)) == texts(
        epochs=2, shards=[*HUMAN, *(ShardRef("web", n, "web") for n in range(7))]
    )


def test_more_parts_than_shards_is_one_line_that_names_the_key():
    with pytest.raises(
        PartsError, match=r"^sources\.web\.parts: 8 parts of 7 shards cannot be: give 7 at most"
    ):
        assign_parts(WEB, 8)
    check_parts("web", 7, 7)
    check_parts("web", 1, 0)
