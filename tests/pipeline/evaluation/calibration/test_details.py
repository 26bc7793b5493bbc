"""The share of texts that are wrong in a detail."""

from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

from capfilt.pipeline.evaluation.calibration.details import (
    ODDS,
    DetailHits,
    FirstScores,
    estimate_details,
    find_details,
    make_variants,
)

OTHERS, FIRST_NOISE_RANK = 16, 5
COLORS = ("red", "blue", "green", "pink")
THINGS = ("ring", "box", "star", "disc")


class FakeMatcher:
    """Probabilities from a function of image and text; remembers what it was asked."""

    def __init__(self, probability):
        self.probability = probability
        self.asked = []

    def match(self, images, texts):
        self.asked += zip(images, texts, strict=True)
        return [
            [SimpleNamespace(itm_prob=self.probability(image, text)) for text in of_image]
            for image, of_image in zip(images, texts, strict=True)
        ]


def find(matcher, images, texts, ranks=None):
    """The hits of texts, each also with the image before its own."""
    variants, score = make_variants(texts), matcher.probability
    first = FirstScores(
        own=np.array([score(*pair) for pair in zip(images, texts, strict=True)]),
        swapped=np.array([score(images[n - 1], text) for n, text in enumerate(texts)]),
        planted=np.array([score(*pair) for pair in zip(images, variants.planted, strict=True)]),
        other_image=np.roll(np.arange(len(images)), 1),
        is_noise=np.ones(len(images), dtype=bool) if ranks is None else ranks >= FIRST_NOISE_RANK,
    )
    return find_details(matcher, images, variants, first)


def make_pairs(random, count, unrelated, wrong):
    """Images, each the true text of a scene, with texts of which some are unrelated or wrong in a word; and
    ranks of the images as a good filter gives them."""
    images, texts, ranks = [], [], []
    for number in range(count):
        scene = make_scene(random)
        said = list(scene)
        if number < unrelated * count:
            said = make_scene(random)  # now and then right, or nearly so
        elif number < (unrelated + wrong) * count:
            place = random.randrange(4)
            words = COLORS if place % 2 == 0 else THINGS
            said[place] = random.choice([word for word in words if word != scene[place]])
        images.append(describe(scene).encode())
        texts.append(describe(said))
        ranks.append(random.randint(0, OTHERS) if number < unrelated * count else 0)
    return images, texts, np.array(ranks, dtype=float)


def make_scene(random):
    return [random.choice(words) for words in (COLORS, THINGS, COLORS, THINGS)]


def describe(scene):
    return f"a {scene[0]} {scene[1]} by a {scene[2]} {scene[3]}"


def know_all(image, text):
    """The filter that makes no mistake."""
    return 0.9 if image.decode() == text else 0.05


@pytest.mark.parametrize(("unrelated", "wrong"), [(0.0, 0.0), (0.0, 0.2), (0.4, 0.1), (0.7, 0.05)])
def test_planted_shares_come_out(unrelated, wrong):
    images, texts, ranks = make_pairs(Random(1), 1500, unrelated, wrong)
    found = estimate_details(find(FakeMatcher(know_all), images, texts, ranks), ranks, OTHERS)
    assert found.pairs == 1500
    assert found.noise == pytest.approx(wrong, abs=0.02)
    assert found.low <= wrong <= found.high and found.high - found.low < 0.07


def test_a_filter_that_overlooks_details_gives_the_same_share():
    """It finds four wrong words of ten only, which shows in the planted ones."""

    def overlook(image, text):
        is_overlooked = differ(image, text) == 1 and Random(f"{image!r}{text}").random() < 0.6
        return 0.9 if image.decode() == text or is_overlooked else 0.05

    images, texts, ranks = make_pairs(Random(2), 1500, 0.3, 0.15)
    hits = find(FakeMatcher(overlook), images, texts, ranks)
    assert hits.planted.mean() < 0.45
    assert estimate_details(hits, ranks, OTHERS).noise == pytest.approx(0.15, abs=0.03)


def differ(image, text):
    return sum(a != b for a, b in zip(image.decode().split(), text.split(), strict=True))


@pytest.mark.parametrize("probability", [0.05, 0.9])
def test_a_filter_that_cannot_tell_gives_no_estimate(probability):
    images, texts, ranks = make_pairs(Random(3), 200, 0.3, 0.1)
    hits = find(FakeMatcher(lambda image, text: probability), images, texts)
    assert not (hits.own.any() or hits.swapped.any() or hits.planted.any())
    assert estimate_details(hits, ranks, OTHERS) is None


def test_texts_without_variants_are_no_hits():
    images, texts = [b"one", b"two"], ["x y", "z w v"]
    matcher = FakeMatcher(know_all)
    hits = find(matcher, images, texts)
    assert not matcher.asked, "there is nothing to ask"
    assert not (hits.own.any() or hits.swapped.any() or hits.planted.any())


JUST, BELOW = ODDS / (ODDS + 4), ODDS / (ODDS + 4) - 1e-6
"""Probabilities at, and below, 20 times the odds of 0.2, which are 1 to 4."""


@pytest.mark.parametrize(
    ("text", "variant", "hit"),
    [
        (0.2, JUST + 1e-9, True),
        (0.2, BELOW, False),
        (0.01, 0.5, True),
        (0.01, 0.4999, False),
        (0.4999, 0.96, True),
        (0.5, 0.96, False),
        (0.0, 1.0, True),
        (1.0, 1.0, False),
    ],
)
def test_what_a_hit_is(text, variant, hit):
    texts = ["a red ring", "a blue ring"]
    probabilities = {"a red ring": text, "a blue ring": variant}
    images = [b"1", b"2"]
    hits = find(FakeMatcher(lambda image, said: probabilities[said] if image == b"1" else 0.0), images, texts)
    assert hits.own.tolist() == [hit, False]
    # The second text is scored with the first image: a hit if the first one is that much better.
    other = variant < 0.5 <= text and text * (1 - variant) >= ODDS * variant * (1 - text)
    assert hits.swapped.tolist() == [False, other]


def test_only_what_can_be_a_hit_is_scored():
    """The filter calls every second one of eight texts matched; the last four are noise by their rank."""
    images, texts, _ = make_pairs(Random(4), 8, 0.0, 0.0)
    images = [f"{n} {image.decode()}".encode() for n, image in enumerate(images)]
    texts = [f"{n} {n} {text}" for n, text in enumerate(texts)]  # numbers that have no substitutes
    ranks = np.repeat([FIRST_NOISE_RANK - 1.0, FIRST_NOISE_RANK], 4)

    def know_even(image, text):
        return 0.9 if int(text.split()[0]) % 2 == 0 else 0.1

    matcher = FakeMatcher(know_even)
    find(matcher, images, texts, ranks)
    assert len({image for image, _ in matcher.asked}) == len(matcher.asked), "an image is encoded once more"
    asked = {int(image.split()[0]): sorted({int(text[0]) for text in of}) for image, of in matcher.asked}
    assert asked == {1: [1], 3: [3], 4: [5], 5: [5], 6: [7], 7: [7]}
    counts = {int(image.split()[0]): len(of) for image, of in matcher.asked}
    variants = make_variants(texts)
    for n in (1, 3, 5, 7):
        assert counts[n] == len(variants.of_texts[n]) + len(variants.of_planted[n])


def test_hits_are_those_of_scoring_every_variant():
    images, texts, ranks = make_pairs(Random(5), 80, 0.4, 0.1)

    def probability(image, text):
        return Random(f"{image!r}{text}").random()

    def is_hit(image, text, variants):
        own, best = probability(image, text), max((probability(image, v) for v in variants), default=0.0)
        return own < 0.5 <= best and best / (1 - best) >= ODDS * own / (1 - own)

    hits, variants = find(FakeMatcher(probability), images, texts, ranks), make_variants(texts)
    for n, (image, text) in enumerate(zip(images, texts, strict=True)):
        assert hits.own[n] == is_hit(image, text, variants.of_texts[n])
        assert hits.planted[n] == is_hit(image, variants.planted[n], variants.of_planted[n])
        is_noise = ranks[n] >= FIRST_NOISE_RANK
        assert hits.swapped[n] == (is_noise and is_hit(images[n - 1], text, variants.of_texts[n]))
    assert all(0 < of.sum() < 80 for of in (hits.own, hits.swapped, hits.planted))


def hits_of(count, own, swapped, planted):
    """Hits of these shares, the swapped ones among the first half of the texts."""

    def first(share, among):
        return np.arange(count) < share * among

    return DetailHits(first(own, count), first(swapped, count // 2), first(planted, count))


def test_shares_are_those_of_the_equations():
    # Half of the texts rank their image like any other: u = (3/4 of half) * 17/12, h = 0.1.
    count = 3200
    ranks = np.zeros(count)
    ranks[: count // 2] = 16.0
    ranks[: count // 8] = 4.0
    unrelated = 3 / 8 * 17 / 12
    hits = hits_of(count, 0.2, 0.0, 0.5)
    hits.swapped[count // 8 : count // 8 + 120] = True  # of the 1,200 texts that are noise by their rank
    found = estimate_details(hits, ranks, OTHERS)
    chance = unrelated * 0.1
    ratio = (0.2 - chance) / (0.5 - chance)
    assert found.noise == pytest.approx((1 - unrelated) * ratio / (1 + ratio))
    assert found.low < found.noise < found.high


@pytest.mark.parametrize(
    ("noise_ranks", "planted", "estimated"),
    [(0, 0.19, False), (0, 0.2, True), (500, 0.05, False), (500, 0.06, True)],
)
def test_a_fifth_of_the_details_planted_in_related_texts_has_to_be_found(noise_ranks, planted, estimated):
    """With half of the ranks behind all others, 0.29 of the texts are related; a fifth of that is 0.058."""
    ranks = np.zeros(1000)
    ranks[:noise_ranks] = 16.0
    found = estimate_details(hits_of(1000, 0.05, 0.0, planted), ranks, OTHERS)
    assert (found is not None) == estimated


def test_fewer_hits_than_by_chance_are_no_share_below_zero():
    ranks = np.zeros(1000)
    ranks[:500] = 16.0
    assert estimate_details(hits_of(1000, 0.0, 1.0, 0.95), ranks, OTHERS).noise == 0.0
