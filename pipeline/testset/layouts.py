"""Test sets in the layouts of COCO, Karpathy, BLIP and NoCaps, and our manifests: images, ids and texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from capfilt.stages.errors import UserError
from capfilt.stages.manifest.annotations import AnnotatedImage, is_annotations, parse_images, splits_of
from capfilt.stages.manifest.columns import ColumnReader
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.files import ManifestFile, find_files
from capfilt.stages.manifest.records import load_document, read_rows
from capfilt.stages.manifest.row import ManifestRow
from capfilt.stages.status import PENDING
from capfilt.stages.taskdata.records import BAD_RECORD

DEFAULT_SPLIT = "test"
NUMBER = re.compile(r"(?:^|_)0*(\d+)$")
"""The number of an image in its file name: COCO_val2014_000000391895, 1007129816."""

ImageId = int | str


class TestSetError(UserError):
    """A test set cannot be used; the message names the file, the option and what to do."""

    __test__ = False  # no class of tests, whatever pytest takes its name for


@dataclass
class TestImage:
    """A record of a test set."""

    __test__ = False

    row: ManifestRow
    image_id: ImageId | None
    status: str = PENDING
    message: str | None = None
    """Why it cannot be used."""
    domain: str = ""
    """NoCaps: "in-domain", "near-domain" or "out-domain"."""


@dataclass(frozen=True)
class TestSet:
    """The records of a test set, in the order of its file."""

    __test__ = False

    layout: str
    split: str | None
    images: list[TestImage] = field(default_factory=list)


def read_test_set(data: str, split: str | None, limit: int | None) -> TestSet:
    """Read the file of a test set.

    Args:
        data: a path or any fsspec URL.
        split: part of Karpathy's json; None: "test". Other layouts have no splits.
        limit: read only the first images.

    Raises:
        TestSetError: the file has no such split, or no images, or is no list of images.
        ManifestError: it cannot be read.
    """
    config = ManifestConfig(manifest=data)
    files = find_files(config, "--data")
    if len(files) > 1 or files[0].format in ("tar", "txt"):
        given = f"{len(files)} files" if len(files) > 1 else f"a {files[0].format} file"
        raise TestSetError(
            f"--data {data}: {given}; give one file: COCO, Karpathy, BLIP or NoCaps json, or a manifest "
            "(Parquet, CSV, TSV, JSONL) with columns url and text"
        )
    document = _document_of(files[0])
    if document is None:
        _refuse_split(split, data, [])
        found, layout = list(_merge_rows(files[0], config)), files[0].format
    else:
        split = _choose_split(document, split, data)
        found = _parse(document, split, data)
        layout = "karpathy" if split else "annotations"
    images = number_images(found)[:limit]
    if not images:
        raise TestSetError(f"--data {data}: it has no images; give a file that lists images")
    return TestSet(layout, split, images)


def number_images(found: Sequence[AnnotatedImage]) -> list[TestImage]:
    """Records with their image ids: those of the file; if it has none, the numbers in the names of the image
    files; if these are not all different numbers, the places in the file, from 0.

    A record that is no image of its own gets the status `BAD_RECORD`.
    """
    own = any(image.image_id is not None and image.is_listed for image in found)
    names = [_number_in(image.row["url"]) for image in found]
    given = [number for number, image in zip(names, found, strict=True) if image.row["url"]]
    by_name = None not in given and len(set(given)) == len(given)
    images: list[TestImage] = []
    seen: set[ImageId] = set()
    for place, (image, number) in enumerate(zip(found, names, strict=True)):
        image_id = image.image_id if own else number if by_name and number is not None else place
        entry = TestImage(image.row, image_id, domain=image.domain)
        if not image.is_listed:
            entry.status, entry.message = (
                BAD_RECORD,
                f"texts of image {image_id}, which is not listed",
            )
        elif image_id is None:
            entry.status, entry.message = BAD_RECORD, "the record has no image id"
        elif image_id in seen:
            entry.status, entry.message = BAD_RECORD, f"a second image with id {image_id}"
        elif not image.row["url"] and "image_file" not in image.row:
            entry.status, entry.message = BAD_RECORD, "the record names no image"
        else:
            seen.add(image_id)
        images.append(entry)
    return images


def _document_of(file: ManifestFile) -> Any | None:
    """The annotation document in a file; None for a manifest."""
    if file.format != "json":
        return None
    try:
        document = load_document(file)
    except (OSError, ValueError):  # JSON lines, or a file whose error `read_rows` reports
        return None
    return document if is_annotations(document) else None


def _choose_split(document: Any, split: str | None, data: str) -> str | None:
    try:
        present = splits_of(document)
    except TypeError as error:
        raise TestSetError(f"--data {data}: its images are no list; give COCO or Karpathy json") from error
    _refuse_split(split, data, present)
    if not present:
        return None
    chosen = split or (present[0] if len(present) == 1 else DEFAULT_SPLIT)
    if chosen not in present:
        raise TestSetError(
            f"--split {chosen}: {data} has no such split; choose among {', '.join(present)} with --split"
        )
    return chosen


def _refuse_split(split: str | None, data: str, present: Sequence[str]) -> None:
    if split is not None and not present:
        raise TestSetError(
            f"--split {split}: {data} has no splits, only Karpathy's dataset json has; remove --split"
        )


def _parse(document: Any, split: str | None, data: str) -> list[AnnotatedImage]:
    try:
        return parse_images(document, (split,) if split else ())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TestSetError(
            f"--data {data}: annotations of an unknown form ({type(error).__name__}: {error}); give COCO, "
            "Karpathy, BLIP or NoCaps json, or a manifest"
        ) from error


def _merge_rows(file: ManifestFile, config: ManifestConfig) -> Iterator[AnnotatedImage]:
    """The rows of a manifest; rows with one url are one image with all their texts."""
    reader = ColumnReader(config)
    merged: dict[Any, ManifestRow] = {}
    for place, row in enumerate(read_rows(file, config, "--data", reader)):
        is_own = not row["url"] or "image_file" in row
        first = merged.setdefault(place if is_own else row["url"], row)
        if first is not row:
            first["texts"].extend(row["texts"])
    yield from map(AnnotatedImage, merged.values())


def _number_in(url: str | None) -> int | None:
    found = NUMBER.search(PurePosixPath(url.partition("?")[0]).stem) if url else None
    return int(found[1]) if found else None
