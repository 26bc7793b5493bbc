"""The text that an image has in an epoch: how often each is drawn, and that nothing but its key decides."""

import math
from collections import Counter, defaultdict

import pyarrow as pa
import pytest

from capfilt.models.keyed_random import sequence_seed
from capfilt.stages.pairs.draw import DrawConfig, count_occurrences, draw_texts
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PAIRS_SCHEMA, image_id
from capfilt.stages.pairs.texts import weigh_texts
from tests.stages.pairs.streams import read_pairs

SHARDS = [ShardRef("web", shard, "web") for shard in range(4)]
ORIGINS = [["web"], ["web", "synthetic"], ["synthetic"] * 2, ["web", "synthetic", "synthetic"]]
MASK = 2**64 - 1


def make_rows(weights, shard=0, images=40, per_image="one"):
    rows = []
    for i in range(images):
        origins = ORIGINS[i % len(ORIGINS)]
        key = f"{shard:06d}{i:05d}"
        texts = [f"{key} {number} {origin}. Second {number} {key}." for number, origin in enumerate(origins)]
        rows.append(
            {
                "key": key,
                "source": "web",
                "image_id": image_id(key),
                "texts": texts,
                "weights": weigh_texts(origins, weights, per_image),
                "image": b"x",
            }
        )
    return rows


def reader(weights, per_image="one"):
    def read(items):
        for item in items:
            yield pa.Table.from_pylist(
                make_rows(weights, item["shard"], per_image=per_image), schema=PAIRS_SCHEMA
            )

    return read


def splitmix(seed):
    """The first number of SplitMix64 as a float, in Python's own integers."""
    x = (seed + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return ((x ^ (x >> 31)) >> 11) / 2**53


def expected_texts(rows, epoch, seed, sample):
    """Brute force: the inverse cumulative distribution of the key's own random number."""
    for row in rows:
        total = sum(row["weights"])
        for time in range(count_occurrences(round(total, 9), epoch, row["image_id"], 0)):
            u = splitmix(sequence_seed(seed, epoch, f"text/web/{row['key']}", time)) * total
            number = next(n for n in range(len(row["texts"])) if sum(row["weights"][: n + 1]) > u)
            text = row["texts"][number]
            if sample:
                sentences = [f"{part.strip('.')}." for part in text.split(". ")]
                u = splitmix(sequence_seed(seed, epoch, f"sentence {number}/web/{row['key']}", time))
                text = sentences[int(u * len(sentences))]
            yield row["key"], text


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("weights", [{"web": 0.2, "synthetic": 0.8}, {"web": 0}, {}])
def test_the_draw_is_the_inverse_distribution_of_a_number_of_seed_epoch_and_key(weights, sample):
    rows = make_rows(weights)
    config = DrawConfig(seed=7, per_image="one", sentences="sample" if sample else "whole")
    for epoch in range(6):
        drawn = [(row["key"], text) for row, text in draw_texts(rows, epoch, config)]
        assert drawn == list(expected_texts(rows, epoch, 7, sample))


def test_texts_are_drawn_as_often_as_their_weights_say():
    """Within 4.5 standard deviations of the binomial distribution for each of the kinds of image."""
    weights, epochs = {"web": 0.2, "synthetic": 0.8}, 250
    rows = make_rows(weights)
    seen = defaultdict(Counter)
    for epoch in range(epochs):
        drawn = list(draw_texts(rows, epoch, DrawConfig(seed=1, per_image="one")))
        assert [row["key"] for row, _ in drawn] == [row["key"] for row in rows], "each image once"
        for row, text in drawn:
            seen[int(row["key"]) % len(ORIGINS)][row["texts"].index(text)] += 1
    trials = epochs * len(rows) // len(ORIGINS)
    for kind, origins in enumerate(ORIGINS):
        for number, share in enumerate(weigh_texts(origins, weights, "one")):
            bound = 4.5 * math.sqrt(trials * share * (1 - share))
            assert abs(seen[kind][number] - trials * share) <= bound


@pytest.mark.parametrize("human", [0, 0.5, 1, 2])
def test_human_images_occur_as_often_as_their_weight_says_with_own_draws(human):
    origins = ["human"] * 3
    rows = make_rows({})
    rows = [
        row | {"texts": list("abc"), "weights": weigh_texts(origins, {"human": human}, "one")} for row in rows
    ]
    counts, texts = Counter(), Counter()
    for epoch in range(4):
        for row, text in draw_texts(rows, epoch, DrawConfig(seed=1, per_image="one")):
            counts[row["key"]] += 1
            texts[text] += 1
    assert all(counts[row["key"]] == 4 * human for row in rows)
    assert set(texts) == (set("abc") if human else set())


def stream(
    position=None, count=None, seed=0, window_shards=2, weights=None, sentences="sample", per_image="one"
):
    """(pair, position after it) of three epochs, or of so many samples."""
    read = reader(weights or {"web": 0.2, "synthetic": 0.8}, per_image)
    draw = DrawConfig(seed=seed, per_image=per_image, sentences=sentences)
    options = {"seed": seed, "window_shards": window_shards, "draw": draw, "position": position}
    return read_pairs(SHARDS, read, count=count, epochs=3 if count is None else None, **options)


@pytest.mark.parametrize("per_image", ["one", "all"])
@pytest.mark.parametrize("window_shards", [1, 3, 4])
def test_a_stream_of_drawn_texts_resumes_in_the_middle_of_an_epoch(window_shards, per_image):
    options = {"window_shards": window_shards, "per_image": per_image}
    whole = stream(**options)
    for taken in (1, 33, 160, 161, 250, len(whole) - 1):
        rest = stream(whole[taken - 1][1], len(whole) - taken, **options)
        assert [(pair.key, pair.text) for pair, _ in rest] == [
            (pair.key, pair.text) for pair, _ in whole[taken:]
        ]


def test_epochs_and_seeds_differ_and_windows_do_not():
    def by_epoch(**options):
        pairs = [(pair.key, pair.text) for pair, _ in stream(**options)]
        assert len(pairs) == 3 * 160
        return [dict(pairs[start : start + 160]) for start in (0, 160, 320)]

    epochs = by_epoch()
    assert len({tuple(sorted(epoch.items())) for epoch in epochs}) == 3
    assert by_epoch(seed=1) != epochs
    assert by_epoch(window_shards=1) == by_epoch(window_shards=4) == epochs


def test_with_all_texts_each_occurs_with_one_of_its_sentences():
    pairs = [pair.text for pair, _ in stream(weights={"web": 1}, per_image="all")]
    assert len(pairs) == 3 * 4 * 10 * sum(map(len, ORIGINS))
    assert all(text.count(".") == 1 for text in pairs)
    counts = Counter((text.split()[0] == "Second") for text in pairs)
    assert abs(counts[True] - len(pairs) / 2) <= 4.5 * math.sqrt(len(pairs)) / 2
