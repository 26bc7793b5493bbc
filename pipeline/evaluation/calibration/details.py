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
class DetailHits:
    """Which texts are hits, bool [n] each."""

    own: np.ndarray
    """With their own image."""
    swapped: np.ndarray
    """With another image."""
    planted: np.ndarray
    """With their own image and one word replaced; a text without variants is no hit."""

    def take(self, places: np.ndarray) -> DetailHits:
        """Those at these places."""
        return DetailHits(self.own[places], self.swapped[places], self.planted[places])


def find_details(matcher: Any, images: Sequence[bytes], texts: Sequence[str]) -> DetailHits:
    """Score texts and their variants with their own image and with another one.

    Args:
        matcher: a `models.tasks.matcher.Matcher` or an ensemble of them.
        images: n encoded images, n > 1.
        texts: the text of each, normalized.
    """
    substitutes = find_substitutes(texts)
    variants = [vary_text(text, substitutes) for text in texts]
    planted = [Random(text).choice(of_text or [text]) for text, of_text in zip(texts, variants, strict=True)]
    of_planted = [vary_text(text, substitutes) for text in planted]
    order = np.random.default_rng(0).permutation(len(texts))
    other = np.empty_like(order)  # the image that takes the place of each text's own
    other[order] = np.roll(order, 1)
    swapped = np.argsort(other)  # the text that each image is scored with in place of its own
    groups = [
        ([texts[i], *variants[i]], [texts[j], *variants[j]], [planted[i], *of_planted[i]])
        for i, j in enumerate(swapped.tolist())
    ]
    scored = matcher.match(images, [[text for group in of_image for text in group] for of_image in groups])
    hits = np.zeros((3, len(texts)), dtype=bool)
    for i, (of_image, scores) in enumerate(zip(groups, scored, strict=True)):
        found = iter([score.itm_prob for score in scores])
        own, other_text, changed = (_is_hit([next(found) for _ in group]) for group in of_image)
        hits[0, i], hits[1, swapped[i]], hits[2, i] = own, other_text, changed and bool(variants[i])
    return DetailHits(*hits)


def _is_hit(probabilities: Sequence[float]) -> bool:
    """Whether one of the variants shows that the text is wrong in a detail.

    Args:
        probabilities: of the text, then of its variants.
    """
    text, best = probabilities[0], max(probabilities)
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
