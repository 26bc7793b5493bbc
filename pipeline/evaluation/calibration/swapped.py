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
from capfilt.pipeline.evaluation.calibration.details import DetailHits, estimate_details, find_details
from capfilt.pipeline.evaluation.calibration.ranks import PairScores, calibrate, rank_own_image
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
    found = calibrate(scores, [row["source"] for row in sample])
    ranks = rank_own_image(scores.itc_own, scores.itc_others)
    details = estimate_details(find_sample_details(task, matcher, sample), ranks, OTHERS)
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


def score_sample(task: CalibrationTask, matcher: Any, sample: Sequence[dict[str, Any]]) -> PairScores:
    """Score the texts of a sample with their own and with other images."""
    return score_swapped(matcher, [row["image"] for row in sample], _normalized_texts(task, sample))


def find_sample_details(task: CalibrationTask, matcher: Any, sample: Sequence[dict[str, Any]]) -> DetailHits:
    """Which texts of a sample seem to be wrong in a detail."""
    return find_details(matcher, [row["image"] for row in sample], _normalized_texts(task, sample))


def _normalized_texts(task: CalibrationTask, sample: Sequence[dict[str, Any]]) -> list[str]:
    return [normalize_caption(row["texts"][0], task.judge.max_words) for row in sample]


def load_filter(task: CalibrationTask) -> Any:
    """The filter, as a `models.tasks.matcher.Matcher` that sends its notices to the user."""
    matcher = load_matcher(task.judge, task.model)
    matcher.on_notice(log.warning if task.status is None else task.status.add_notice)
    return matcher


def score_swapped(matcher: Any, images: Sequence[bytes], texts: Sequence[str]) -> PairScores:
    """Score each text with its own image and with `OTHERS` other images.

    Every image is encoded once and gets equally many texts: its own and those of the `OTHERS` images that
    follow it in a fixed random order.

    Args:
        matcher: a `models.tasks.matcher.Matcher` or an ensemble of them.
        images: n encoded images, n > `OTHERS`.
        texts: the text of each, normalized.
    """
    count = len(images)
    order = np.random.default_rng(0).permutation(count)
    place = np.argsort(order)
    shifts = np.arange(OTHERS + 1)
    text_of = order[(place[:, None] + shifts) % count]  # [n, 1 + K]: the texts of an image, its own first
    scored = matcher.match(images, [[texts[i] for i in of_image] for of_image in text_of.tolist()])
    itm, itc = (
        np.array([[getattr(score, name) for score in of_image] for of_image in scored])
        for name in ("itm_prob", "itc_sim")
    )
    itc -= itc[:, 1:].mean(axis=1, keepdims=True)
    image_of = order[(place[:, None] - shifts) % count]  # [n, 1 + K]: the images of a text, its own first
    itm, itc = itm[image_of, shifts], itc[image_of, shifts]
    return PairScores(itm[:, 0], itm[:, 1:], itc[:, 0], itc[:, 1:])


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
