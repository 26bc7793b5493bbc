"""How much of the web texts is unrelated to its image, and where to cut.

The raw noise ratio counts what the filter drops at a threshold, so it depends on the threshold and on how
strict the filter is. The calibration compares each web text with its own image and with other images. For a
text that says nothing about its image, the image is one among many: its rank among the others is uniform. A
text that describes its image ranks it among the first. The share of noise is therefore read off the ranks
that only noise reaches (J. D. Storey, "A direct approach to false discovery rates", 2002, equation 2, with
lambda = 0.25), whatever the language, the length or the style of the texts.

The texts behind those ranks are noise, and their scores with other images are what noise scores: boilerplate
fits many images a little, and where noise is mostly boilerplate the threshold has to be higher.

A text that is wrong in a detail still ranks its image first and counts as matching here (see `details`).

Shapes: n pairs, K other images per text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from capfilt.pipeline.evaluation.calibration.result import Calibration, NoiseEstimate
from capfilt.pipeline.evaluation.intervals import wilson_interval

MATCHING_RANKS = 0.25
"""Share of the ranks, from the best one on, that matching texts may reach."""
NOISE_COST = 2.0
"""A noise text that is kept costs as much as this many matching texts that are dropped."""
THRESHOLDS = (0.002, 0.005, *(step / 100 for step in range(1, 100)))
"""Thresholds from which one is suggested."""


@dataclass(frozen=True)
class PairScores:
    """Scores of texts with their own image, and with other images."""

    itm_own: np.ndarray
    """ITM probabilities with the own image, [n]."""
    itm_others: np.ndarray
    """ITM probabilities with the other images, [n, K]."""
    itc_own: np.ndarray
    """ITC similarities with the own image, [n], each above the mean of that image and texts of other images:
    some images are similar to every text, and would be ranked first by noise."""
    itc_others: np.ndarray
    """The same with the other images, [n, K]."""


def calibrate(scores: PairScores, sources: Sequence[str]) -> Calibration:
    """Estimate the share of noise, and suggest a threshold.

    The suggested threshold maximizes kept(own) - (1 + `NOISE_COST`) * noise * kept(others), where kept is the
    share of scores at or above the threshold, and others are the other images of the texts that are noise by
    their rank: kept(own) has the kept noise in it, noise * kept(others), which is no gain.

    Args:
        scores: of n > 0 texts.
        sources: the source of each text.
    """
    ranks = rank_own_image(scores.itc_own, scores.itc_others)
    others = scores.itc_others.shape[1]
    names = np.array(sources)
    found = estimate_noise(ranks, others)
    is_noise = ranks >= first_noise_rank(others)
    swapped_noise = scores.itm_others[is_noise] if is_noise.any() else scores.itm_others
    own, swapped = (
        np.array([(of >= threshold).mean() for threshold in THRESHOLDS])
        for of in (scores.itm_own, swapped_noise)
    )
    best = int(np.argmax(own - (1 + NOISE_COST) * found.noise * swapped))
    matching = 1 - found.noise
    keeps = (own[best] - found.noise * swapped[best]) / matching if matching else 0.0
    return Calibration(
        all=found,
        threshold=THRESHOLDS[best],
        keeps_matching=float(np.clip(keeps, 0, 1)),
        keeps_noise=float(swapped[best]),
        by_source={str(name): estimate_noise(ranks[names == name], others) for name in np.unique(names)},
    )


def rank_own_image(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rank of each text's own image among its other images, 0 (best) to K, float [n]; a tie counts one half.

    Args:
        own: scores with the own image, [n].
        others: scores with the other images, [n, K].
    """
    ahead = (others > own[:, None]).sum(axis=1)
    return np.asarray(ahead + (others == own[:, None]).sum(axis=1) / 2, dtype=np.float64)


def estimate_noise(ranks: np.ndarray, others: int) -> NoiseEstimate:
    """Estimate the share of texts whose own image is ranked like any other.

    Args:
        ranks: rank of the own image, 0 to K, of n > 0 texts.
        others: K.
    """
    first = first_noise_rank(others)
    share = (others + 1 - first) / (others + 1)  # of the ranks, which noise reaches equally often
    reached = int((ranks >= first).sum())
    interval = wilson_interval(reached, len(ranks))
    assert interval is not None, "there is at least one text"
    noise, low, high = (min(1.0, value / share) for value in (reached / len(ranks), *interval))
    return NoiseEstimate(len(ranks), noise, low, high)


def first_noise_rank(others: int) -> int:
    """The first of the ranks 0 to `others` that no matching text has."""
    return int(np.ceil(MATCHING_RANKS * (others + 1)))
