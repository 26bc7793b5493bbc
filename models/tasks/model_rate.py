"""Measures how fast a model alone is on its device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

WINDOW = 256
"""Last micro-batches that count."""


class ModelRate:
    """Images per second of a model, from its pixels to its results.

    Taken is the fastest tenth of the last micro-batches. The first ones allocate memory and choose kernels,
    and other processes of the machine slow some of them down. Micro-batches of fewer than half as many images
    as the largest do not count: the last one of a shard may be small and use the device badly.
    """

    def __init__(self) -> None:
        self._last: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        """(images, seconds) of micro-batches."""

    def add(self, images: int, seconds: float) -> None:
        """Count a micro-batch."""
        if images and seconds > 0:
            self._last.append((images, seconds))

    @property
    def images_per_second(self) -> float | None:
        """None before the first micro-batch."""
        if not self._last:
            return None
        half = max(images for images, _ in self._last) / 2
        speeds = sorted((images / seconds for images, seconds in self._last if images >= half), reverse=True)
        return speeds[len(speeds) // 10]


def combine_rates(rates: Iterable[ModelRate]) -> float | None:
    """Images per second of models that process each image one after another; None before all have begun."""
    seconds = 0.0
    for each in rates:
        if (rate := each.images_per_second) is None:
            return None
        seconds += 1 / rate
    return 1 / seconds if seconds else None
