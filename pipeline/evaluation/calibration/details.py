"""How many texts are wrong in a detail: they are about their image, but one word of them is false.

Such a text ranks its image before all others, so that the ranks do not show it. One other word would make it
true. It counts as a hit if the filter calls the text unmatched, but matched with one word replaced
(`substitutes`), at odds that are `ODDS` times as high. Hits are no proof: texts about other images have some
by chance, and not every wrong word is found. Both rates are measured on the same texts:

* with another image in place of their own: h, the share of hits among unrelated texts;
* with a word replaced, so that all of them are wrong in a detail: f of them are hits.

If u of all texts are unrelated, d are wrong in a detail, s of these are found, and o of all texts are hits
as they are, then o = u h + d s. With a word replaced, those that were wrong have two wrong words and are no
hits: f = u h + (1 - u - d) s. So d = (1 - u) q / (1 + q) with q = (o - u h) / (f - u h).

Right texts are taken to have no hits. Where the filter does not know a word, they have some, and d is too
large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from capfilt.pipeline.evaluation.calibration.ranks import estimate_noise, first_noise_rank
from capfilt.pipeline.evaluation.calibration.result import NoiseEstimate
from capfilt.pipeline.evaluation.calibration.substitutes import find_substitutes, vary_text

MATCHED = 0.5
"""ITM probability from which on the filter calls a text matched."""
ODDS = 20.0
"""With the right word, the odds of a match are at least this many times as high; with another word for the
same thing, or one that is more exact, they rise less."""
LEAST_FOUND = 0.2
"""If fewer planted details are found, nothing is estimated."""
RESAMPLES = 400
"""Samples drawn from the sample, for the interval."""


@dataclass(frozen=True)
class Variants:
    """Texts with one word replaced."""

    of_texts: list[list[str]]
    """Of each text of the sample; none if none of its words has a substitute."""
    planted: list[str]
    """One of them for each text, which makes it wrong in a detail; the text itself if it has none."""
    of_planted: list[list[str]]
    """Of each of these."""


@dataclass(frozen=True)
class FirstScores:
    """What is known of n texts before their variants are scored."""

    own: np.ndarray
    """ITM probabilities with the own image, [n]."""
    swapped: np.ndarray
    """With another image, [n]."""
    planted: np.ndarray
    """Of the planted texts with the own image, [n]."""
    other_image: np.ndarray
    """The number of the other image of each text, [n]."""
    is_noise: np.ndarray
    """Whether a text is noise by its rank, bool [n]."""


@dataclass(frozen=True)
class DetailHits:
    """Which texts are hits, bool [n] each."""

    own: np.ndarray
    """With their own image."""
    swapped: np.ndarray
    """With another image; only of texts that are noise by their rank, no other is looked at."""
    planted: np.ndarray
    """With their own image and one word replaced; a text without variants is no hit."""

    def take(self, places: np.ndarray) -> DetailHits:
        """Those at these places."""
        return DetailHits(self.own[places], self.swapped[places], self.planted[places])


def make_variants(texts: Sequence[str]) -> Variants:
    """The variants of a sample's texts; the same ones each time.

    Args:
        texts: normalized.
    """
    substitutes = find_substitutes(texts)
    variants = [vary_text(text, substitutes) for text in texts]
    planted = [Random(text).choice(of_text or [text]) for text, of_text in zip(texts, variants, strict=True)]
    return Variants(variants, planted, [vary_text(text, substitutes) for text in planted])


@dataclass(frozen=True)
class _Question:
    """Whether a text is a hit."""

    text: int
    """Number of the text."""
    score: float
    """Its ITM probability."""
    variants: Sequence[str]
    answers: np.ndarray
    """Where the answer belongs, bool [n]."""


def find_details(matcher: Any, images: Sequence[bytes], variants: Variants, first: FirstScores) -> DetailHits:
    """Score the variants of the texts that the filter calls unmatched; other texts are no hits.

    Args:
        matcher: a `models.tasks.matcher.Matcher` or an ensemble of them.
        images: n encoded images; only those with such texts are read.
        variants: of the text of each.
        first: scores of the same texts.
    """
    count = len(images)
    hits = DetailHits(*np.zeros((3, count), dtype=bool))
    own_image, every = np.arange(count), np.ones(count, dtype=bool)
    asked: list[list[_Question]] = [[] for _ in images]
    for answers, scores, of_texts, image_of, is_asked in (
        (hits.own, first.own, variants.of_texts, own_image, every),
        (hits.swapped, first.swapped, variants.of_texts, first.other_image, first.is_noise),
        (hits.planted, first.planted, variants.of_planted, own_image, every),
    ):
        for text in np.flatnonzero(is_asked & (scores < MATCHED)).tolist():
            if of_texts[text]:
                question = _Question(text, float(scores[text]), of_texts[text], answers)
                asked[image_of[text]].append(question)
    chosen = [number for number, questions in enumerate(asked) if questions]
    of_images = [[text for question in asked[number] for text in question.variants] for number in chosen]
    scored = matcher.match([images[number] for number in chosen], of_images)
    for number, of_image in zip(chosen, scored, strict=True):
        found = iter([score.itm_prob for score in of_image])
        for question in asked[number]:
            best = max(next(found) for _ in question.variants)
            question.answers[question.text] = _is_hit(question.score, best)
    return hits


def _is_hit(text: float, best: float) -> bool:
    """Whether the variants of a text show that it is wrong in a detail.

    Args:
        text: its ITM probability.
        best: the highest one of its variants.
    """
    return text < MATCHED <= best and best * (1 - text) >= ODDS * text * (1 - best)


def estimate_details(hits: DetailHits, ranks: np.ndarray, others: int) -> NoiseEstimate | None:
    """Estimate the share of texts that are wrong in a detail.

    Args:
        hits: of n texts.
        ranks: rank of the own image of the same texts, 0 to K.
        others: K.

    Returns:
        None if so few of the planted details are found that the hits say nothing.
    """
    found = _solve(hits, ranks, others)
    if found is None:
        return None
    random = np.random.default_rng(0)
    draws = (random.integers(len(ranks), size=len(ranks)) for _ in range(RESAMPLES))
    solved = [_solve(hits.take(places), ranks[places], others) for places in draws]
    low, high = np.quantile([share for share in solved if share is not None], [0.025, 0.975])
    return NoiseEstimate(len(ranks), found, float(low), float(high))


def _solve(hits: DetailHits, ranks: np.ndarray, others: int) -> float | None:
    """The share d of the module's text, None if fewer than `LEAST_FOUND` of the planted details are found."""
    related = 1 - estimate_noise(ranks, others).noise
    is_noise = ranks >= first_noise_rank(others)
    by_chance = (1 - related) * float(hits.swapped[is_noise].mean()) if is_noise.any() else 0.0
    findable = float(hits.planted.mean()) - by_chance
    if findable < LEAST_FOUND * related or not related:
        return None
    ratio = max(0.0, float(hits.own.mean()) - by_chance) / findable
    return related * ratio / (1 + ratio)
