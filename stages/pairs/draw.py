"""Draws the texts that occur in an epoch, for images of which not every text is a pair of its own.

Each draw is a function of seed, epoch and image (`models.keyed_random`), so it is the same wherever a
training is resumed, however many workers it has, and in whatever order shards are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch

from capfilt.models.keyed_random import sample_categorical, sequence_seed, uniform
from capfilt.stages.pairs.texts import PerImage, Sentences, split_sentences

PHASES = 2**32
PHASE_STEP = 2654435761
"""Consecutive multiples of it are spread evenly over the phases (Knuth, multiplicative hashing)."""


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """What is drawn."""

    seed: int
    per_image: PerImage = "all"
    sentences: Sentences = "whole"


@dataclass(frozen=True)
class _Occurrence:
    """A text that occurs in an epoch."""

    row: int
    """Number of the image."""
    number: int
    """Of the text among those of the image."""
    time: int
    """How many times the image (with `per_image` "all": the text) has occurred before in the epoch."""


def draw_texts(
    rows: Sequence[dict[str, Any]], epoch: int, config: DrawConfig
) -> Iterator[tuple[dict[str, Any], str]]:
    """(row, text) of every pair of an epoch.

    Args:
        rows: images with their texts (`stages.pairs.read.PAIRS_SCHEMA`).
        epoch: from 0.
    """
    if config.per_image == "one":
        occurrences = _draw_one_each(rows, epoch, config.seed)
    else:
        occurrences = list(_all_texts(rows, epoch))
    if config.sentences == "sample":
        texts = _draw_sentences(rows, occurrences, epoch, config.seed)
    else:
        texts = [rows[each.row]["texts"][each.number] for each in occurrences]
    for each, text in zip(occurrences, texts, strict=True):
        yield rows[each.row], text


def _all_texts(rows: Sequence[dict[str, Any]], epoch: int) -> Iterator[_Occurrence]:
    for index, row in enumerate(rows):
        for number, weight in zip(range(len(row["texts"])), row["weights"] or repeat(1.0), strict=False):
            for time in range(count_occurrences(weight, epoch, row["image_id"], number)):
                yield _Occurrence(index, number, time)


def _draw_one_each(rows: Sequence[dict[str, Any]], epoch: int, seed: int) -> list[_Occurrence]:
    """One text for each time that an image occurs, by the weights of its texts."""
    times = [
        (index, time)
        for index, row in enumerate(rows)
        # Rounded, because shares such as 0.2 and 0.8 need not add up to exactly 1.
        for time in range(count_occurrences(round(math.fsum(row["weights"]), 9), epoch, row["image_id"], 0))
    ]
    if not times:
        return []
    weights = torch.zeros(len(times), max(len(rows[index]["weights"]) for index, _ in times)).double()
    for line, (index, _) in enumerate(times):
        own = rows[index]["weights"]
        weights[line, : len(own)] = torch.tensor(own, dtype=torch.float64)
    seeds = [_seed(seed, epoch, "text", rows[index], time) for index, time in times]
    numbers = sample_categorical(weights, uniform(torch.tensor(seeds), 0)).tolist()
    return [_Occurrence(index, number, time) for (index, time), number in zip(times, numbers, strict=True)]


def _draw_sentences(
    rows: Sequence[dict[str, Any]], occurrences: Sequence[_Occurrence], epoch: int, seed: int
) -> list[str]:
    """One sentence of each text."""
    split = [split_sentences(rows[each.row]["texts"][each.number]) for each in occurrences]
    seeds = [_seed(seed, epoch, f"sentence {each.number}", rows[each.row], each.time) for each in occurrences]
    drawn = uniform(torch.tensor(seeds, dtype=torch.int64), 0).tolist()
    return [sentences[int(u * len(sentences))] for sentences, u in zip(split, drawn, strict=True)]


def _seed(seed: int, epoch: int, what: str, row: dict[str, Any], time: int) -> int:
    return sequence_seed(seed, epoch, f"{what}/{row['source']}/{row['key']}", time)


def count_occurrences(weight: float, epoch: int, image_id: int, number: int) -> int:
    """How often a pair occurs in an epoch, so that it occurs `weight` times in an average one.

    A pair of weight 0.5 occurs in every other epoch; which ones is different from pair to pair, so that all
    epochs have about as many pairs.

    Args:
        epoch: from 0.
        image_id: of the image, see `stages.pairs.read.image_id`.
        number: of the text among those of the image.
    """
    phase = (image_id + number * PHASE_STEP) % PHASES / PHASES
    return math.floor(weight * (epoch + 1) + phase) - math.floor(weight * epoch + phase)
