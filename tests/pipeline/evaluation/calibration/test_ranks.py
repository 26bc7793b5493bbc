"""Estimates of the share of noise and suggested thresholds, on scores whose truth is known."""

import numpy as np
import pytest

from capfilt.pipeline.evaluation.calibration.ranks import (
    THRESHOLDS,
    PairScores,
    calibrate,
    estimate_noise,
    rank_own_image,
)

OTHERS = 16


def simulate(noise, pairs=20_000, seed=0):
    """Scores of texts of which the share `noise` does not fit its image; returns them and the truth."""
    draws = np.random.default_rng(seed)
    is_noise = draws.random(pairs) < noise
    strangers = draws.beta(1, 12, (pairs, OTHERS + 1))  # how a text scores with images that it does not fit
    own = np.where(is_noise, strangers[:, 0], draws.beta(6, 3, pairs))
    return PairScores(own, strangers[:, 1:], own, strangers[:, 1:]), is_noise


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4, 0.55, 0.7, 1.0])
def test_planted_share_is_estimated_without_the_truth(noise):
    scores, is_noise = simulate(noise)
    found = calibrate(scores, ["web"] * len(is_noise)).all
    assert found.noise == pytest.approx(is_noise.mean(), abs=0.02)
    assert found.low - 1e-3 <= is_noise.mean() <= found.high + 1e-3, "a few matching texts rank badly"
    assert found.pairs == len(is_noise)


def test_estimate_does_not_depend_on_how_high_the_texts_of_a_style_score():
    """Boilerplate scores higher than other noise, with its own image and with every other one."""
    scores, is_noise = simulate(0.5)
    shift = np.where(np.arange(len(is_noise)) % 2, 0.5, 0.0)
    shifted = PairScores(
        scores.itm_own, scores.itm_others, scores.itc_own + shift, scores.itc_others + shift[:, None]
    )
    sources = ["web"] * len(is_noise)
    assert calibrate(shifted, sources).all == calibrate(scores, sources).all


def test_interval_holds_for_95_of_100_samples():
    """Of 200 samples, 190 are expected to contain the share; 180 is three standard deviations below."""
    hits = 0
    for seed in range(200):
        scores, _ = simulate(0.4, pairs=400, seed=seed)
        found = calibrate(scores, ["web"] * 400).all
        hits += found.low <= 0.4 <= found.high
    assert hits >= 180


def test_sources_are_estimated_apart():
    mixed, _ = simulate(0.5)
    few, some = (simulate(noise, 5_000, seed=1)[0] for noise in (0.1, 0.6))
    joined = PairScores(*(np.concatenate([getattr(few, name), getattr(some, name)]) for name in vars(mixed)))
    found = calibrate(joined, ["few"] * 5_000 + ["some"] * 5_000)
    assert found.by_source["few"].noise == pytest.approx(0.1, abs=0.03)
    assert found.by_source["some"].noise == pytest.approx(0.6, abs=0.03)
    assert found.all.noise == pytest.approx(0.35, abs=0.02) and found.all.pairs == 10_000


def test_threshold_keeps_matching_texts_and_drops_noise():
    scores, is_noise = simulate(0.5)
    found = calibrate(scores, ["web"] * len(is_noise))
    kept = scores.itm_own >= found.threshold
    assert (
        kept[~is_noise].mean() == pytest.approx(found.keeps_matching, abs=0.02) and found.keeps_matching > 0.9
    )
    assert kept[is_noise].mean() == pytest.approx(found.keeps_noise, abs=0.02) and found.keeps_noise < 0.05


def test_threshold_is_the_best_of_the_list_by_brute_force():
    scores, is_noise = simulate(0.3, pairs=500)
    found = calibrate(scores, ["web"] * len(is_noise))
    noise_by_rank = [
        of
        for own, others, of in zip(scores.itc_own, scores.itc_others, scores.itm_others, strict=True)
        if sum(other > own for other in others) >= 5
    ]

    def gain(threshold):
        own = sum(score >= threshold for score in scores.itm_own) / 500
        others = sum(score >= threshold for of in noise_by_rank for score in of)
        return own - 3 * found.all.noise * others / (len(noise_by_rank) * OTHERS)

    assert found.threshold == max(THRESHOLDS, key=gain)


def test_threshold_depends_on_the_scores_of_noise_and_not_of_matching_texts():
    """Noise that fits every image a little is kept at a threshold that suffices for other swapped texts."""
    scores, is_noise = simulate(0.2)
    boilerplate = np.random.default_rng(1).uniform(0.3, 0.4, (len(is_noise), OTHERS + 1))
    own = np.where(is_noise, boilerplate[:, 0], scores.itm_own)
    others = np.where(is_noise[:, None], boilerplate[:, 1:], scores.itm_others)
    found = calibrate(PairScores(own, others, own, others), ["web"] * len(is_noise))
    assert 0.39 <= found.threshold <= 0.41
    assert calibrate(scores, ["web"] * len(is_noise)).threshold < 0.39


@pytest.mark.parametrize(("noise", "threshold"), [(0.0, THRESHOLDS[0]), (1.0, None)])
def test_without_noise_everything_is_kept_and_with_nothing_else_nothing(noise, threshold):
    scores, is_noise = simulate(noise, pairs=500)
    found = calibrate(scores, ["web"] * len(is_noise))
    if threshold is not None:
        assert found.threshold == threshold and found.keeps_matching == 1
    else:
        assert (scores.itm_own >= found.threshold).mean() < 0.05


def test_ranks_count_better_images_and_half_of_the_equal_ones():
    own = np.array([0.5, 0.5, 0.5])
    others = np.array([[0.6, 0.4, 0.7], [0.5, 0.5, 0.1], [0.1, 0.2, 0.3]])
    assert rank_own_image(own, others).tolist() == [2.0, 1.0, 0.0]


def test_ranks_from_the_fifth_of_seventeen_on_count_as_noise():
    """ceil(17 / 4) = 5: twelve of the seventeen ranks lie behind the first quarter."""
    ranks = np.array([0.0, 4.0, 4.5, 5.0, 16.0, 9.0])
    assert estimate_noise(ranks, OTHERS).noise == pytest.approx(3 / 6 * 17 / 12)
    assert estimate_noise(np.full(3, 16.0), OTHERS).noise == 1.0, "no more than all texts"
