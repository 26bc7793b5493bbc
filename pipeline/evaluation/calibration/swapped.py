"""Scores of a sample of web texts with their own and with other images, for the calibration of a filter."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from capfilt.cluster.board import NodeStatus
from capfilt.models.caption_text import normalize_caption
from capfilt.pipeline.evaluation.calibration.details import (
    DetailHits,
    FirstScores,
    estimate_details,
    find_details,
    make_variants,
)
from capfilt.pipeline.evaluation.calibration.ranks import (
    PairScores,
    calibrate,
    first_noise_rank,
    rank_own_image,
)
from capfilt.pipeline.evaluation.calibration.result import Calibration
from capfilt.stages.bootstrap.filter import FilterConfig, load_matcher
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.pairs.hold_out import is_held_out
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, ReadPairs

log = logging.getLogger(__name__)

OTHERS = 16
"""Other images that each text is scored with."""
FEWEST_PAIRS = 4 * OTHERS
"""With fewer pairs nothing is estimated."""
SHARDS_PER_SOURCE = 8
"""A sample comes from at least this many shards of a source, as far as it has them."""


@dataclass(frozen=True, kw_only=True)
class CalibrationTask:
    """Calibration of one filter; picklable, so that it can run in a worker process."""

    model: ModelSource
    """The filter."""
    judge: FilterConfig
    """How it scores texts."""
    pairs: PairsConfig
    """Where the pairs are read."""
    hold_out: float
    """Share of the images that no training has read, from which the sample comes; 0: from all images."""
    shards: tuple[ShardRef, ...]
    """Shards of the web sources."""
    size: int
    """Pairs of the sample."""
    status: NodeStatus | None = None
    """Receives notices for the user; None sends them to the log."""


def calibrate_filter(task: CalibrationTask) -> Calibration | None:
    """Score a sample and calibrate the filter, in this process.

    Returns:
        None if there are too few pairs.
    """
    return calibrate_timed(task)[0]


def calibrate_timed(task: CalibrationTask) -> tuple[Calibration | None, int, float]:
    """`calibrate_filter`, the number of texts of the sample, and the seconds that scoring them took once the
    model was loaded."""
    sample = sample_pairs(task)
    if len(sample) < FEWEST_PAIRS:
        return None, len(sample), 0.0
    matcher = load_filter(task)
    start = time.monotonic()
    scores = score_sample(task, matcher, sample)
    found = calibrate(scores.pairs, [row["source"] for row in sample])
    details = estimate_details(scores.hits, scores.ranks, OTHERS)
    return replace(found, details=details), len(sample), time.monotonic() - start


def sample_pairs(task: CalibrationTask) -> list[dict[str, Any]]:
    """Up to `size` rows of `stages.pairs.read.PAIRS_SCHEMA`: equal numbers from each source, as far as it has
    them, from shards in an order that depends on their names alone.

    The text of an image is the first of its row.
    """
    by_source: dict[str, list[ShardRef]] = {}
    for shard in task.shards:
        by_source.setdefault(shard.source, []).append(shard)
    sample: list[dict[str, Any]] = []
    for left, source in zip(range(len(by_source), 0, -1), sorted(by_source), strict=True):
        sample += _sample_source(task, by_source[source], (task.size - len(sample)) // left)
    return sample


def _sample_source(task: CalibrationTask, shards: Sequence[ShardRef], size: int) -> list[dict[str, Any]]:
    per_shard = -(-size // min(SHARDS_PER_SOURCE, len(shards)))
    rows: list[dict[str, Any]] = []
    for shard in sorted(shards, key=lambda ref: _digest(f"{ref.source}/{ref.shard}")):
        if len(rows) >= size:
            break
        rows += list(_eligible(task, shard))[:per_shard]
    return rows[:size]


def _eligible(task: CalibrationTask, shard: ShardRef) -> Iterator[dict[str, Any]]:
    for row in ReadPairs(task.pairs).read(shard).to_pylist():
        held_out = not task.hold_out or is_held_out(row["source"], row["key"], task.hold_out)
        if held_out and normalize_caption(row["texts"][0], task.judge.max_words):
            yield row


@dataclass(frozen=True)
class SampleScores:
    """What a calibration measures of a sample of n texts."""

    pairs: PairScores
    """Scores with their own and with other images."""
    ranks: np.ndarray
    """Ranks of their own images, [n]."""
    hits: DetailHits
    """Which of them seem to be wrong in a detail."""


def score_sample(task: CalibrationTask, matcher: Any, sample: Sequence[dict[str, Any]]) -> SampleScores:
    """Score the texts of a sample with their own and with other images, then with words replaced."""
    images = [row["image"] for row in sample]
    texts = [normalize_caption(row["texts"][0], task.judge.max_words) for row in sample]
    variants = make_variants(texts)
    pairs, planted = score_swapped(matcher, images, texts, variants.planted)
    ranks = rank_own_image(pairs.itc_own, pairs.itc_others)
    first = FirstScores(
        own=pairs.itm_own,
        swapped=pairs.itm_others[:, 0],
        planted=planted,
        other_image=_images_of_texts(len(texts))[:, 1],
        is_noise=ranks >= first_noise_rank(OTHERS),
    )
    return SampleScores(pairs, ranks, find_details(matcher, images, variants, first))


def load_filter(task: CalibrationTask) -> Any:
    """The filter, as a `models.tasks.matcher.Matcher` that sends its notices to the user."""
    matcher = load_matcher(task.judge, task.model)
    matcher.on_notice(log.warning if task.status is None else task.status.add_notice)
    return matcher


def score_swapped(
    matcher: Any, images: Sequence[bytes], texts: Sequence[str], planted: Sequence[str]
) -> tuple[PairScores, np.ndarray]:
    """Score each text with its own image and with `OTHERS` other images.

    Every image is encoded once and gets equally many texts: its own and those of the `OTHERS` images that
    follow it in a fixed random order.

    Args:
        matcher: a `models.tasks.matcher.Matcher` or an ensemble of them.
        images: n encoded images, n > `OTHERS`.
        texts: the text of each, normalized.
        planted: another text for each image, which is scored with it alone.

    Returns:
        (the scores of the texts, the ITM probabilities of the others [n]).
    """
    image_of = _images_of_texts(len(images))
    shifts = np.arange(OTHERS + 1)
    text_of = np.empty_like(image_of)  # [n, 1 + K]: the texts of an image, its own first
    text_of[image_of, shifts] = np.arange(len(images))[:, None]
    groups = [
        [*(texts[i] for i in of_image), other]
        for of_image, other in zip(text_of.tolist(), planted, strict=True)
    ]
    scored = matcher.match(images, groups)
    itm, itc = (
        np.array([[getattr(score, name) for score in of_image] for of_image in scored])
        for name in ("itm_prob", "itc_sim")
    )
    itm, itc, itm_planted = itm[:, :-1], itc[:, :-1], itm[:, -1]
    itc = itc - itc[:, 1:].mean(axis=1, keepdims=True)
    itm, itc = itm[image_of, shifts], itc[image_of, shifts]
    return PairScores(itm[:, 0], itm[:, 1:], itc[:, 0], itc[:, 1:]), itm_planted


def _images_of_texts(count: int) -> np.ndarray:
    """The images that each of `count` texts is scored with, [count, 1 + `OTHERS`]: its own first, then those
    before it in a fixed random order."""
    order = np.random.default_rng(0).permutation(count)
    place = np.argsort(order)
    return np.asarray(order[(place[:, None] - np.arange(OTHERS + 1)) % count])


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
