"""JSON annotation files as manifest rows: COCO, Karpathy's splits, BLIP's lists, SBU and Visual Genome.

Each image is one row with all its captions, so that it is stored once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from capfilt.stages.manifest.row import ManifestRow, make_row


class AnnotatedImage(NamedTuple):
    """An image of an annotation document."""

    row: ManifestRow
    image_id: int | str | None = None
    """Its id in the document (COCO `id`, Karpathy `cocoid`, BLIP `img_id`), if it has one."""
    is_listed: bool = True
    """False for texts of COCO whose image the document does not list."""
    domain: str = ""
    """NoCaps: "in-domain", "near-domain" or "out-domain"."""


def parse_annotations(document: Any, splits: Sequence[str] = ()) -> list[ManifestRow]:
    """Rows of an annotation document; see `parse_images`, whose arguments and errors it has."""
    return [image.row for image in parse_images(document, splits) if image.is_listed]


def is_annotations(document: Any) -> bool:
    """Whether a JSON document has one of the formats of `parse_images`."""
    if isinstance(document, dict):
        return "images" in document or ("image_urls" in document and "captions" in document)
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and "image" in first


def splits_of(document: Any) -> list[str]:
    """The splits of Karpathy's dataset json, sorted; empty for other documents."""
    images = document.get("images") if isinstance(document, dict) and "annotations" not in document else None
    found = [image.get("split") for image in images or () if isinstance(image, dict)]
    return sorted({str(split) for split in found if split})


def parse_images(document: Any, splits: Sequence[str] = ()) -> list[AnnotatedImage]:
    """Images of an annotation document; their urls are paths relative to the image folder, or urls (SBU).

    Args:
        document: the content of the JSON file.
        splits: the splits to read from Karpathy's file.

    Raises:
        ValueError: the document has none of the known formats; or it has several splits and none is chosen,
            in which case test images would be used for training.
    """
    if isinstance(document, dict) and "images" in document and not _is_coco(document):
        return _parse_karpathy(document, splits)
    if splits:
        raise ValueError("splits are given, but only Karpathy's dataset json has splits; remove the key")
    if isinstance(document, dict) and "images" in document:
        return _parse_coco(document)
    if isinstance(document, list) and is_annotations(document):
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


def _is_coco(document: dict[str, Any]) -> bool:
    """Whether a document with images is COCO's; the images of its test parts have no annotations."""
    images = document["images"]
    first = images[0] if isinstance(images, list) and images and isinstance(images[0], dict) else {}
    return "annotations" in document or ("file_name" in first and "id" in first)


def _parse_coco(document: dict[str, Any]) -> list[AnnotatedImage]:
    """COCO captions: `images[].{id, file_name}` and `annotations[].{image_id, caption}`.

    An image without an id has no texts. A caption that names no image becomes a row without a url, so that it
    is counted.
    """
    texts: dict[int | str, list[Any]] = {}
    unplaced = []
    for annotation in document.get("annotations", ()):
        image_id = _id_of(annotation, "image_id")
        caption = annotation.get("caption") if isinstance(annotation, dict) else None
        if image_id is None:
            unplaced.append(AnnotatedImage(make_row(None, [caption])))
        else:
            texts.setdefault(image_id, []).append(caption)
    images: list[AnnotatedImage] = []
    listed: set[int | str | None] = set()
    for image in document["images"]:
        image_id = _id_of(image, "id")
        name = image.get("file_name") if isinstance(image, dict) else None
        own = texts.get(image_id, []) if image_id is not None else []
        images.append(AnnotatedImage(make_row(name, own), image_id, domain=_domain_of(image)))
        listed.add(image_id)
    orphans = [
        AnnotatedImage(make_row(None, own), image_id, is_listed=False)
        for image_id, own in texts.items()
        if image_id not in listed
    ]
    return images + unplaced + orphans


def _domain_of(record: Any) -> str:
    """The domain of an image of NoCaps, "" for others."""
    domain = record.get("domain") if isinstance(record, dict) else None
    return domain.strip() if isinstance(domain, str) else ""


def _id_of(record: Any, key: str) -> int | str | None:
    """The id of an image in a record; None if the record is no object or has none."""
    value = record.get(key) if isinstance(record, dict) else None
    return value if isinstance(value, int | str) else None


def _parse_karpathy(document: dict[str, Any], splits: Sequence[str]) -> list[AnnotatedImage]:
    """Karpathy's dataset_coco.json: `images[].{filepath, filename, split, cocoid, sentences[].raw}`."""
    images = [image if isinstance(image, dict) else {} for image in document["images"]]
    present = splits_of(document)
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
            rows.append(AnnotatedImage(make_row(path or None, texts), _id_of(image, "cocoid")))
    return rows


def _parse_blip(document: list[Any]) -> list[AnnotatedImage]:
    """BLIP's coco_karpathy_*.json and nocaps_*.json: a list of {"image", "caption", "img_id"}; a caption is a
    text or a list of texts."""
    images: dict[str, tuple[dict[str, Any], list[Any]]] = {}
    unplaced = []
    for entry in document:
        record = entry if isinstance(entry, dict) else {}
        caption = record.get("caption")
        captions = caption if isinstance(caption, list) else [caption]
        if "image" not in record:
            unplaced.append(AnnotatedImage(make_row(None, captions)))
            continue
        _, texts = images.setdefault(str(record["image"]), (record, []))
        texts.extend(captions)
    placed = [
        AnnotatedImage(make_row(record["image"], texts), _blip_id(record), domain=_domain_of(record))
        for record, texts in images.values()
    ]
    return placed + unplaced


def _blip_id(record: dict[str, Any]) -> int | str | None:
    """`img_id` (NoCaps), or `image_id` if it is a number: lists for training have names such as coco_7."""
    given = _id_of(record, "img_id")
    other = record.get("image_id")
    return other if given is None and isinstance(other, int) else given


def _parse_sbu(document: dict[str, Any]) -> list[AnnotatedImage]:
    """SBU's release: two parallel lists, `image_urls` and `captions`."""
    urls, captions = document["image_urls"], document["captions"]
    if len(urls) != len(captions):
        raise ValueError(
            f"it has {len(urls)} image_urls and {len(captions)} captions; give one caption per url"
        )
    return [AnnotatedImage(make_row(url, [caption])) for url, caption in zip(urls, captions, strict=True)]
