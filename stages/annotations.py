"""Annotation files beside a folder of images: COCO, Karpathy's splits and BLIP's lists, as manifest rows.

One row per image, its captions together, so that an image is stored once however many people described it.
"""

from __future__ import annotations

from typing import Any


def annotation_rows(document: Any) -> list[dict[str, Any]] | None:
    """Rows {"url": path below the image folder, "texts": [...], "truth"} of an annotation document.

    Returns:
        None when the document is a plain list of records without an "image" key (a url list).
    """
    if isinstance(document, dict) and "images" in document:
        if "annotations" in document:
            return _coco(document)
        return _karpathy(document)
    if isinstance(document, list) and document and isinstance(document[0], dict) and "image" in document[0]:
        return _blip(document)
    if isinstance(document, dict):
        raise ValueError(
            "a JSON object needs 'images' (COCO or Karpathy annotations); a url list is an array of objects"
        )
    return None


def _coco(document: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO captions: `images[].{id, file_name}` and `annotations[].{image_id, caption}`."""
    texts: dict[Any, list[str]] = {}
    for annotation in document["annotations"]:
        texts.setdefault(annotation["image_id"], []).append(annotation.get("caption"))
    return [_row(image.get("file_name"), texts.get(image["id"], [])) for image in document["images"]]


def _karpathy(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Karpathy's dataset_coco.json: `images[].{filepath, filename, sentences[].raw}`."""
    rows = []
    for image in document["images"]:
        path = "/".join(part for part in (image.get("filepath"), image.get("filename")) if part)
        rows.append(_row(path, [sentence.get("raw") for sentence in image.get("sentences", [])]))
    return rows


def _blip(document: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """BLIP's coco_karpathy_*.json: a list of {"image", "caption"}; caption is a text or a list of them."""
    rows: dict[str, dict[str, Any]] = {}
    for record in document:
        caption = record.get("caption")
        texts = caption if isinstance(caption, list) else [caption]
        row = rows.setdefault(str(record["image"]), _row(record["image"], []))
        row["texts"].extend(t for t in texts if isinstance(t, str))
    return list(rows.values())


def _row(path: Any, texts: list[Any]) -> dict[str, Any]:
    return {
        "url": path if isinstance(path, str) else None,
        "texts": [t for t in texts if isinstance(t, str)],
        "truth": None,
    }
