"""The images of a test set, read by the fetch stage of runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from capfilt.pipeline.testset.layouts import TestImage, TestSetError
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.rows import ROW_SCHEMA, table_of
from capfilt.stages.shards.embedded import read_embedded
from capfilt.stages.status import PENDING, SUCCESS

IMAGES_AT_A_TIME = 256
ANY_IMAGE = DecodeConfig(min_side=1, max_aspect=1e9, resize="original")
"""Every image of a test set counts, whatever its size, and the model reads the bytes of its file."""


def read_images(
    images: Sequence[TestImage], folder: str, on_progress: Callable[[int], None]
) -> list[bytes | None]:
    """Read the images of the pending records, and set the status and the message of each.

    Args:
        images: the records.
        folder: where relative paths begin, local or any fsspec URL. Web addresses are downloaded.
        on_progress: receives the number of records that are done.

    Returns:
        The encoded image of each record; None if it has none.

    Raises:
        StoreError: the folder cannot be reached.
        TestSetError: it is no folder that is read safely.
    """
    threads = min(16, os.cpu_count() or 1)
    try:
        config = FetchConfig(image_root=folder, image=ANY_IMAGE, decode_threads=threads)
    except ValueError as error:
        raise TestSetError(f"--images {folder}: {error}") from error
    fetch = Fetch(config)
    found: list[bytes | None] = []
    for start in range(0, len(images), IMAGES_AT_A_TIME):
        part = images[start : start + IMAGES_AT_A_TIME]
        fetched = fetch(table_of(_rows(part, start, config), ROW_SCHEMA)).to_pylist()
        for image, row in zip(part, fetched, strict=True):
            image.status, image.message = row["status"], row["error_message"]
            found.append(row["image"] if row["status"] == SUCCESS else None)
        on_progress(len(found))
    return found


def _rows(images: Sequence[TestImage], start: int, config: FetchConfig) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"key": str(start + i), "url": image.row["url"], "status": image.status}
        for i, image in enumerate(images)
    ]
    embedded = [dict(image.row) for image in images]
    read = [dict[str, Any]() for _ in images]
    read_embedded(embedded, read, {}, config.max_bytes)
    for image, row, own in zip(images, rows, read, strict=True):
        row["error_message"] = image.message
        if image.status == PENDING:
            row.update(own)
    return rows
