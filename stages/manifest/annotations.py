"""JSON annotation files as manifest rows: COCO, Karpathy's splits, BLIP's lists, SBU and Visual Genome.

Each image is one row with all its captions, so that it is stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from capfilt.stages.manifest.row import ManifestRow, make_row


def parse_annotations(document: Any, splits: Sequence[str] = ()) -> list[ManifestRow]:
    """Rows of an annotation document; their urls are paths relative to the image folder, or urls (SBU).

    Args:
        document: the content of the JSON file.
        splits: the splits to read from Karpathy's file.

    Raises:
        ValueError: the document has none of the known formats; or it has several splits and none is chosen,
            in which case test images would be used for training.
    """
    if isinstance(document, dict) and "images" in document and "annotations" not in document:
        return _parse_karpathy(document, splits)
    if splits:
        raise ValueError("splits are given, but only Karpathy's dataset json has splits; remove the key")
    if isinstance(document, dict) and "images" in document:
        return _parse_coco(document)
    if isinstance(document, list) and document and isinstance(document[0], dict) and "image" in document[0]:
        return _parse_blip(document)
    if isinstance(document, dict) and "image_urls" in document and "captions" in document:
        return _parse_sbu(document)
    raise ValueError(
        "a JSON object needs 'images' (COCO or Karpathy annotations) or 'image_urls' and 'captions' (SBU); "
        "a url list is an array of objects"
    )


def parse_visual_genome(images: Iterable[Any]) -> Iterator[ManifestRow]:
    """Visual Genome's region_descriptions.json: `[].{id, regions[].phrase}`; the file of an image is
    `<id>.jpg`."""
    for image in images:
        entry = image if isinstance(image, dict) else {}
        image_id, regions = entry.get("id"), entry.get("regions")
        phrases = (
            [r.get("phrase") for r in regions if isinstance(r, dict)] if isinstance(regions, list) else []
        )
        yield make_row(f"{image_id}.jpg" if isinstance(image_id, int) else None, phrases)


def _parse_coco(document: dict[str, Any]) -> list[ManifestRow]:
    """COCO captions: `images[].{id, file_name}` and `annotations[].{image_id, caption}`.

    An image without an id has no texts. A caption that names no image becomes a row without a url, so that it
    is counted.
    """
    texts: dict[int | str, list[Any]] = {}
    unplaced = []
    for annotation in document["annotations"]:
        image_id = _id_of(annotation, "image_id")
        caption = annotation.get("caption") if isinstance(annotation, dict) else None
        if image_id is None:
            unplaced.append(make_row(None, [caption]))
        else:
            texts.setdefault(image_id, []).append(caption)
    rows = []
    for image in document["images"]:
        image_id = _id_of(image, "id")
        name = image.get("file_name") if isinstance(image, dict) else None
        rows.append(make_row(name, texts.get(image_id, []) if image_id is not None else []))
    return rows + unplaced


def _id_of(record: Any, key: str) -> int | str | None:
    """The id of an image in a record; None if the record is no object or has none."""
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, int | str) else None


def _parse_karpathy(document: dict[str, Any], splits: Sequence[str]) -> list[ManifestRow]:
    """Karpathy's dataset_coco.json: `images[].{filepath, filename, split, sentences[].raw}`."""
    images = [image if isinstance(image, dict) else {} for image in document["images"]]
    present = sorted({str(image["split"]) for image in images if image.get("split")})
    unknown = sorted(set(splits) - set(present))
    if unknown or (len(present) > 1 and not splits):
        problem = f"it has no split {', '.join(unknown)}" if unknown else "it has several splits"
        raise ValueError(
            f"{problem}; choose among {', '.join(present)} with rows.splits, e.g. [train, restval]"
        )
    rows = []
    for image in images:
        if not splits or image.get("split") in splits:
            parts = (image.get("filepath"), image.get("filename"))
            path = "/".join(part for part in parts if part and isinstance(part, str))
            sentences = image.get("sentences")
            texts = [each.get("raw") for each in sentences or () if isinstance(each, dict)]
            rows.append(make_row(path or None, texts))
    return rows


def _parse_blip(document: list[Any]) -> list[ManifestRow]:
    """BLIP's coco_karpathy_*.json: a list of {"image", "caption"}; a caption is a text or a list of texts."""
    images: dict[str, tuple[Any, list[Any]]] = {}
    unplaced = []
    for entry in document:
        record = entry if isinstance(entry, dict) else {}
        caption = record.get("caption")
        captions = caption if isinstance(caption, list) else [caption]
        if "image" not in record:
            unplaced.append(make_row(None, captions))
            continue
        _, texts = images.setdefault(str(record["image"]), (record["image"], []))
        texts.extend(captions)
    return [make_row(image, texts) for image, texts in images.values()] + unplaced


def _parse_sbu(document: dict[str, Any]) -> list[ManifestRow]:
    """SBU's release: two parallel lists, `image_urls` and `captions`."""
    urls, captions = document["image_urls"], document["captions"]
    if len(urls) != len(captions):
        raise ValueError(
            f"it has {len(urls)} image_urls and {len(captions)} captions; give one caption per url"
        )
    return [make_row(url, [caption]) for url, caption in zip(urls, captions, strict=True)]
