"""The training stream: complete, seeded, resumable at any sample, and the same for any reader."""

from collections import Counter

import pyarrow as pa
import pytest

from capfilt.stages.pairs.draw import count_occurrences
from capfilt.stages.pairs.parts import ShardRef, assign_parts
from capfilt.stages.pairs.read import PAIRS_SCHEMA, image_id
from tests.local_feed import LocalWindow
from tests.stages.pairs.former_stream import FormerStream
from tests.stages.pairs.streams import make_stream, read_pairs

SHARDS = [ShardRef("web", n, "web") for n in range(5)] + [ShardRef("human", 0, "human")]


def read(items):
    """Seven images per shard; image i has i % 3 texts."""
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


def read_texts(count=None, shards=SHARDS, position=None, **config):
    """The first texts of a stream."""
    pairs = read_pairs(shards, read, count=count, position=position, **config)
    return [pair.text for pair, _ in pairs]


def texts_of(refs):
    return {f"{r.source}{r.shard}-{i}-{t}" for r in refs for i in range(7) for t in range(i % 3)}


def test_an_epoch_has_every_pair_once():
    assert Counter(read_texts(epochs=1)) == Counter(texts_of(SHARDS))


def test_a_pair_has_its_image_and_id():
    pairs = [pair for pair, _ in read_pairs(SHARDS[:1], read, epochs=1)]
    assert {(pair.text, pair.key, pair.image_id, pair.image) for pair in pairs} == {
        (f"web0-{i}-{t}", f"web0-{i}", i, b"x") for i in range(7) for t in range(i % 3)
    }


def test_epochs_and_seeds_differ_in_order():
    two = read_texts(epochs=2)
    half = len(two) // 2
    assert sorted(two[:half]) == sorted(two[half:]) and two[:half] != two[half:]
    assert read_texts(seed=1, epochs=2) != two


@pytest.mark.parametrize("taken", [1, 13, 14, 36, 50, 71])
def test_a_stream_resumes_with_the_next_sample(taken):
    whole = read_pairs(SHARDS, read, count=90)
    position = whole[taken - 1][1]
    assert read_texts(90 - taken, position=position) == [pair.text for pair, _ in whole[taken:]]


def test_the_order_does_not_depend_on_the_order_of_the_shards():
    assert read_texts(80, shards=SHARDS[::-1]) == read_texts(80)


@pytest.mark.parametrize("window_shards", [1, 2, 4, 5, 6, 7])
@pytest.mark.parametrize("seed", [0, 7])
def test_order_and_positions_are_those_of_version_0_1(window_shards, seed):
    """So that its half-done trainings go on as they have begun."""
    shards = SHARDS + assign_parts([ShardRef("laion", n, "web") for n in range(3)], 2)
    options = {"seed": seed, "window_shards": window_shards}
    found = [
        (pair.text, (position.epoch, position.window, position.offset))
        for pair, position in read_pairs(shards, read, epochs=4, **options)
    ]
    former = FormerStream(shards, read, **options).samples(4)
    assert found == [(text, position) for (_, text), position in former]


def test_pairs_are_shuffled_within_a_window_only():
    """Six shards in windows of two: three windows of two shards each."""
    texts = read_texts(epochs=1)
    windows = [{text.partition("-")[0] for text in texts[start : start + 12]} for start in (0, 12, 24)]
    assert sum(len(texts_of([ref])) for ref in SHARDS[:2]) == 12
    assert [len(shards) for shards in windows] == [2, 2, 2]
    assert set.union(*windows) == {f"{ref.source}{ref.shard}" for ref in SHARDS}
    assert any(texts[i].partition("-")[0] != texts[i + 2].partition("-")[0] for i in range(9))


@pytest.mark.parametrize(("window_shards", "kept"), [(5, False), (6, True), (7, True)])
def test_only_a_corpus_of_one_window_is_kept_in_memory(window_shards, kept):
    asked = []

    def request(window):
        asked.append(window.is_kept)
        return LocalWindow(window, 0)

    next(make_stream(SHARDS, read, window_shards=window_shards, request=request).batches())
    assert set(asked) == {kept}


def test_one_window_is_requested_before_it_is_needed():
    asked = []

    def request(window):
        asked.append((window.window.epoch, window.window.number))
        return LocalWindow(window, 0)

    batches = make_stream(SHARDS, read, request=request).batches()
    for _ in range(12):
        next(batches)
        assert asked == [(0, 0), (0, 1)]
    next(batches)
    assert asked == [(0, 0), (0, 1), (0, 2)]


# Two human shards are used in every epoch; of seven web shards in three parts an epoch uses 3, 2 or 2.
HUMAN = [ShardRef("human", n, "human") for n in range(2)]
WEB = assign_parts([ShardRef("web", n, "web") for n in range(7)], 3)
WINDOWS = (2, 4, 100)  # many windows per epoch, one per epoch, the whole corpus in memory


@pytest.mark.parametrize("window_shards", WINDOWS)
def test_each_epoch_uses_one_part_and_as_many_epochs_as_parts_use_every_pair(window_shards):
    common = {"shards": HUMAN + WEB, "window_shards": window_shards}
    ends = [len(read_texts(epochs=epochs, **common)) for epochs in range(1, 7)]
    texts = read_texts(epochs=6, **common)
    for epoch, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        expected = HUMAN + [ref for ref in WEB if ref.shard % 3 == epoch % 3]
        assert Counter(texts[start:end]) == Counter(texts_of(expected))
    counts = Counter(texts[: ends[2]])
    assert {counts[text] for text in texts_of(WEB)} == {1}
    assert {counts[text] for text in texts_of(HUMAN)} == {3}
    assert texts[: ends[0]] != texts[ends[2] : ends[3]], "the same part in another order"


@pytest.mark.parametrize("window_shards", WINDOWS)
def test_a_stream_in_parts_resumes_with_the_next_sample_from_everywhere(window_shards):
    common = {"shards": HUMAN + WEB, "window_shards": window_shards}
    whole = read_pairs(HUMAN + WEB, read, epochs=4, window_shards=window_shards)
    for taken, (_, position) in enumerate(whole, start=1):
        rest = [pair.text for pair, _ in whole[taken:]]
        assert read_texts(len(rest), position=position, **common) == rest


def test_one_part_is_the_order_without_parts():
    assert read_texts(epochs=2, shards=HUMAN + assign_parts(WEB, 1)) == read_texts(
        epochs=2, shards=[*HUMAN, *(ShardRef("web", n, "web") for n in range(7))]
    )


def test_a_training_without_shards_is_an_error():
    with pytest.raises(AssertionError, match="at least one shard"):
        make_stream([], read)


def read_weighted(weight):
    """The pairs of `read`, of which the second text of an image has a weight."""

    def read_with_weights(items):
        for table in read(items):
            rows = table.to_pylist()
            for row in rows:
                row["weights"] = [1.0, weight][: len(row["texts"])]
                row["image_id"] = image_id(row["key"])
            yield pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA)

    return read_with_weights


@pytest.mark.parametrize("weight", [0, 0.25, 0.5, 1, 1.5, 3])
@pytest.mark.parametrize("window_shards", WINDOWS)
def test_pairs_occur_as_often_as_their_weight_says_and_the_stream_resumes_anywhere(weight, window_shards):
    options = {"window_shards": window_shards}
    found = read_pairs(SHARDS, read_weighted(weight), epochs=4, **options)
    whole = [pair.text for pair, _ in found]
    counts = Counter(whole)
    assert {counts[text] for text in texts_of(SHARDS) if text.endswith("-0")} == {4}
    assert {counts[text] for text in texts_of(SHARDS) if text.endswith("-1")} == {4 * weight}
    for taken in range(1, len(whole), 7):
        rest = read_pairs(
            SHARDS, read_weighted(weight), count=len(whole) - taken, position=found[taken - 1][1], **options
        )
        assert [pair.text for pair, _ in rest] == whole[taken:]


@pytest.mark.parametrize("weight", [0.01, 0.3, 0.5, 1.7])
def test_every_epoch_has_about_the_same_share_of_rare_pairs(weight):
    ids = [image_id(str(number)) for number in range(4000)]
    for epoch in (0, 1, 2, 100):
        occurrences = [count_occurrences(weight, epoch, each, number % 3) for number, each in enumerate(ids)]
        assert set(occurrences) <= {int(weight), int(weight) + 1}
        assert sum(occurrences) / len(ids) == pytest.approx(weight, abs=0.03)
