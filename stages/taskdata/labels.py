"""Images with the names of their classes: folders by class, lists of images and labels, COCO's categories.

* A folder that has a folder of images for each class; its name is the label.
* CSV, TSV, JSON lines or a JSON list with an image (`image`, `file_name`, `path` or `url`) and its label
  (`label`, `labels`, `class` or `category`): a text, a number, or a list of them.
* COCO's instances: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "category_id"}],
  "categories": [{"id", "name"}]}`.

An image with several labels counts as recognized by any of them.
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.taskdata.records import (
    Sample,
    TaskDataError,
    TaskRecord,
    bad_record,
    merge_records,
    read_json,
    read_lines,
)

IMAGE_COLUMNS = ("image", "file_name", "path", "url")
LABEL_COLUMNS = ("label", "labels", "class", "category")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".jp2", ".ppm")
"""Names that count as images in a folder of a class; in any case."""


def list_classes(address: str) -> dict[str, dict[str, int]] | None:
    """{class: {file name: bytes}} of a folder that has a folder for each class; None if it is no folder.

    Hidden files, and files that are no images by their names, are left out.
    """
    fs, root = open_filesystem(address)
    if not fs.isdir(root):
        return None
    found: dict[str, dict[str, int]] = {}
    for path, info in fs.find(root, detail=True, maxdepth=2).items():
        label, _, name = path.removeprefix(root.rstrip("/") + "/").rpartition("/")
        if label and not name.startswith(".") and name.lower().endswith(SUFFIXES):
            found.setdefault(label, {})[name] = int(info.get("size") or 0)
    return dict(sorted(found.items()))


def read_labels(address: str, key: str) -> list[TaskRecord]:
    """Read images with labels in one of the layouts.

    Args:
        address: the file or folder.
        key: the config key of this data, for messages.

    Raises:
        ManifestError, TaskDataError: it cannot be read, or has another layout.
    """
    folders = list_classes(address)
    if folders is not None:
        records = list(_of_folders(folders))
    elif address.lower().endswith((".csv", ".tsv")):
        records = list(_of_entries(_rows_of(address, f"{key}.file")))
    else:
        records = list(_of_json(address, f"{key}.file"))
    if not any(record.samples for record in records):
        reason = f" (first: {records[0].message})" if records else ""
        raise TaskDataError(
            f"{key}.file: {address} has no images with labels{reason}; give a folder with a folder for each "
            "class, a list with image and label (CSV, TSV, JSON), or COCO's instances"
        )
    return merge_records(records)


def labels_of(records: Iterable[TaskRecord]) -> list[str]:
    """The different labels of records, sorted."""
    return sorted({label for record in records for sample in record.samples for label in sample.answers})


def _of_folders(folders: Mapping[str, Iterable[str]]) -> Iterator[TaskRecord]:
    for label, names in folders.items():
        for name in sorted(names):
            yield _record(posixpath.join(label, name), [label])


def _rows_of(address: str, key: str) -> Iterator[Any]:
    delimiter = "\t" if address.lower().endswith(".tsv") else ","
    yield from csv.DictReader(read_lines(address, key), delimiter=delimiter)


def _of_json(address: str, key: str) -> Iterator[TaskRecord]:
    """The records of a JSON document, or of JSON lines."""
    lines = read_lines(address, key)
    first = next(lines, "")
    try:
        whole = not isinstance(json.loads(first), dict) or "images" in json.loads(first)
    except ValueError:
        whole = True  # a document over several lines
    if not whole:
        yield from _of_entries(map(_entry_of_line, (first, *lines)))
        return
    document = read_json(address, key)
    if isinstance(document, dict) and isinstance(document.get("categories"), list):
        yield from _of_coco(document, address, key)
    elif isinstance(document, list):
        yield from _of_entries(document)


def _entry_of_line(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return error


def _of_entries(entries: Iterable[Any]) -> Iterator[TaskRecord]:
    for number, entry in enumerate(entries):
        try:
            if isinstance(entry, Exception):
                raise ValueError(f"line {number + 1} is no JSON ({entry})")
            if not isinstance(entry, dict):
                raise ValueError(f"{entry!r:.60} is no object")
            image, label = _value_of(entry, IMAGE_COLUMNS), _value_of(entry, LABEL_COLUMNS)
            labels = [_label(each) for each in (label if isinstance(label, list) else [label])]
            if not isinstance(image, str) or not image.strip() or not labels:
                raise ValueError(f"image is {image!r:.60}, label is {label!r:.60}")
        except ValueError as error:
            yield bad_record(number, str(error))
            continue
        yield _record(image.strip(), labels)


def _value_of(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if entry.get(name) not in (None, ""):
            return entry[name]
    raise ValueError(f"none of {', '.join(names)} is given")


def _label(value: Any) -> str:
    """A label as text.

    Raises:
        ValueError: it is neither a text nor a whole number.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise ValueError(f"label is {value!r:.60}")
    return str(value).strip()


def _of_coco(document: Mapping[str, Any], address: str, key: str) -> Iterator[TaskRecord]:
    try:
        names = {each["id"]: _label(each["name"]) for each in document["categories"]}
        images = {each["id"]: str(each["file_name"]) for each in document["images"]}
    except (KeyError, TypeError, ValueError) as error:
        raise TaskDataError(
            f"{key}: {address} is no list of COCO's instances ({type(error).__name__}: {error}); give it as "
            "it was handed out"
        ) from error
    labels: dict[Any, dict[str, None]] = {}
    for number, annotation in enumerate(document.get("annotations", ())):
        try:
            label, image = names[annotation["category_id"]], annotation["image_id"]
            if image not in images:
                raise ValueError(f"image {image!r:.60} is not listed")
        except (KeyError, TypeError, ValueError) as error:
            missing = f"category_id or image_id: {error}" if isinstance(error, KeyError) else str(error)
            yield bad_record(number, missing)
            continue
        labels.setdefault(image, {})[label] = None
    for image, of_image in labels.items():
        yield _record(images[image], list(of_image))


def _record(image: str, labels: list[str]) -> TaskRecord:
    return TaskRecord(key=image, images=(image,), samples=[Sample(id=image, text=labels[0], answers=labels)])


def name_classes(labels: Sequence[str], given: str | None, key: str) -> dict[str, str]:
    """The class of each label, in the order of the classes.

    Args:
        labels: those of the images.
        given: address of a JSON list of classes, or of an object from labels to classes; None: the labels are
            the classes, with `_` as space. A list names the classes of labels that are numbers by its places,
            from 0.
        key: the config key or option that gives them, for messages.

    Raises:
        ManifestError, TaskDataError: there are none, or an image has another label.
    """
    if given is None:
        return {label: label.replace("_", " ") for label in labels}
    found = read_json(given, key)
    names = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise TaskDataError(
            f"{key}: {given} has no classes; give a JSON list of texts, or an object from labels to texts"
        )
    classes = dict(found) if isinstance(found, dict) else {name: name for name in names}
    if isinstance(found, list) and not set(labels) & set(classes) and all(map(str.isdigit, labels)):
        classes = {str(place): name for place, name in enumerate(names)}
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise TaskDataError(
            f"{key}: {given} lacks {len(unknown):,} labels of the images (first: {unknown[0]!r}); add them"
        )
    return classes
