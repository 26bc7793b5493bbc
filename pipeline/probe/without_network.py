"""A small run that requests nothing from the web: images of noise stand for those that it would request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.preflight.check import SERVED, place_images
from capfilt.pipeline.preflight.rows import SourceRows
from capfilt.stages.fetch.outcomes import locate_image
from capfilt.stages.manifest.row import ManifestRow
from capfilt.stages.status import Failure

DIFFERENT = 256
"""Images that are made; rows take them in turn."""
NOISE_CELL = 8
"""Pixels of a cell of noise: such images have about as many bytes as photographs."""


def sources_on_web(config: Config, found: dict[str, SourceRows]) -> list[str]:
    """Sources of whose first rows one would be requested from the web. What the driver serves is not."""
    return [
        name
        for name, rows in found.items()
        if any(_is_on_web(config, name, each.image) for each in rows.samples)
    ]


def _is_on_web(config: Config, source: str, url: str) -> bool:
    with suppress(Failure):
        address, on_web = locate_image(url, place_images(config.sources[source], config))
        return on_web and not address.startswith(SERVED)
    return False


@contextmanager
def placeholders(config: Config, sources: list[str]) -> Iterator[Config]:
    """The config with these sources reading images of noise, as large as the run stores them."""
    if not sources:
        yield config
        return
    with TemporaryDirectory(prefix="capfilt-plan-") as folder:
        changed = dict(config.sources)
        for name in sources:
            fetch = config.sources[name].fetch or config.fetch
            place = os.path.join(folder, name)
            _make_images(place, max(fetch.image.min_side, fetch.image.size))
            local = replace(fetch, base_url=None, image_root=None, backend="capfilt")
            changed[name] = config.sources[name].model_copy(
                update={"images": place, "base_url": None, "fetch": local}
            )
        yield config.model_copy(update={"sources": changed})


def take_placeholder(number: int, row: ManifestRow) -> ManifestRow:
    """The row with one of the images of noise."""
    changed = row.copy()
    changed["url"] = f"{number % DIFFERENT:05d}.jpg"
    return changed


def _make_images(folder: str, side: int) -> None:
    import cv2

    os.makedirs(folder)
    draw = np.random.default_rng(0)
    cells = -(-side // NOISE_CELL)
    for number in range(DIFFERENT):
        small = draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        image = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(os.path.join(folder, f"{number:05d}.jpg"), image)
