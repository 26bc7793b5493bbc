"""Exported shards as tars: WebDataset's layout, and that of open_clip with several captions per image."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from capfilt.stages.export.config import ExportConfig
from capfilt.stages.shards.pack import add_member, image_extension

OPEN_CLIP_ENDINGS = ("jpg", "png", "jpeg", "webp")
"""Endings of the images that open_clip's data module reads; it passes over samples with another."""


def encode_samples(images: pa.Table, stored: Mapping[str, bytes], config: ExportConfig) -> bytes:
    """A tar with `<name>.<ending>`, `<name>.txt` (the first text) and `<name>.json` of each image.

    Equal rows give equal bytes.

    Args:
        images: one row per image (`stages.export.read.group_by_image`).
        stored: {key: encoded image}, written unchanged.
    """
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in images.to_pylist():
            image = stored[row["key"]]
            name = sample_name(row["source"], row["key"])
            described = dict(caption_keys(row)) | row if config.form == "open_clip" else row
            add_member(tar, f"{name}.{image_extension(image)}", image)
            add_member(tar, f"{name}.txt", row["texts"][0].encode())
            add_member(tar, f"{name}.json", encode_object(described))
    return sink.getvalue()


def sample_name(source: str, key: str) -> str:
    """Name of a sample: keys alone are unique only in their source."""
    return f"{source}-{key}"


def caption_keys(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, text) of each text of an image for open_clip's `--json-text-key`: `web_0`, `synthetic_0`,
    `synthetic_1`, numbered among the kept texts of the same origin."""
    numbers: dict[str, int] = {}
    for origin, text in zip(row["origins"], row["texts"], strict=True):
        number = numbers.get(origin, 0)
        numbers[origin] = number + 1
        yield f"{origin}_{number}", text


def most_texts(images: pa.Table) -> dict[str, int]:
    """{origin: most texts of one image}: how many caption keys the origin has."""
    most: dict[str, int] = {}
    for origins in images["origins"].to_pylist():
        for origin in set(origins):
            most[origin] = max(most.get(origin, 0), origins.count(origin))
    return dict(sorted(most.items()))


def encode_object(value: Any) -> bytes:
    """JSON that every reader accepts: numbers that are none become null, values of other types text."""
    return json.dumps(_finite(value), ensure_ascii=False, default=str).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value
