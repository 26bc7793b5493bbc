"""The files of an evaluation: metrics.json, the official result file, and what became of each image."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import PurePosixPath
from typing import Any, Protocol

from capfilt.pipeline.testset.evaluate import Evaluation, settings_of
from capfilt.stages.storage.store import Store

METRICS, CAPTIONS, IMAGES = "metrics.json", "captions.json", "images.jsonl"
VERSION = 1


class Named(Protocol):
    """A request that names its checkpoint and its data."""

    @property
    def checkpoint(self) -> str: ...

    @property
    def data(self) -> str: ...

    @property
    def split(self) -> str | None: ...


def default_folder(request: Named) -> str:
    """Where the files go if `--out` is not given: `evaluations/<checkpoint>-<data>`."""
    names = [PurePosixPath(address.rstrip("/")).name for address in (request.checkpoint, request.data)]
    stems = [name.removesuffix(".pth").removesuffix(".json") for name in names]
    split = f"-{request.split}" if request.split else ""
    return f"evaluations/{'-'.join(stems)}{split}"


def metrics_of(found: Evaluation) -> dict[str, Any]:
    """The content of metrics.json."""
    images = found.test_set.images
    return {
        "version": VERSION,
        "checkpoint": found.request.checkpoint,
        "model": found.model,
        "data": found.request.data,
        "layout": found.test_set.layout,
        "split": found.test_set.split,
        "images": {
            "listed": len(images),
            "evaluated": found.evaluated,
            "failed": dict(Counter(image.status for image in found.failed)),
        },
        "texts": found.texts,
        "settings": settings_of(found.request),
        "retrieval": found.retrieval,
        "caption": found.caption,
        **({"caption_by_domain": found.caption_by_domain} if found.caption_by_domain else {}),
        "notes": found.notes,
        "seconds": found.seconds,
    }


def write_results(found: Evaluation, store: Store) -> list[str]:
    """Write the files into a folder, metrics.json last; returns their addresses.

    Raises:
        StoreError: the folder cannot be written.
    """
    lines = [
        {
            "image_id": image.image_id,
            "image": image.row["url"],
            "texts": len(image.row["texts"]),
            "status": image.status,
            "message": image.message,
        }
        for image in found.test_set.images
    ]
    files = {IMAGES: "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)}
    if found.captions:
        files[CAPTIONS] = json.dumps(found.captions, ensure_ascii=False)
    files[METRICS] = json.dumps(metrics_of(found), ensure_ascii=False, indent=1) + "\n"
    store.remove_file(METRICS)  # until it is there again, the folder says nothing
    for name in {CAPTIONS} - set(files):
        store.remove_file(name)
    for name, text in files.items():
        store.put(name, text.encode())
    return [store.address(name) for name in reversed(files)]
