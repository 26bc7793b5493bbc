"""JSON documents that are no plain url list: COCO, Karpathy's splits, BLIP's lists, SBU and Visual Genome, as manifest rows.

One row per image, its captions together, so that an image is stored once however many people described it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def annotation_rows(document: Any, splits: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows {"url": path below the image folder, "texts": [...], "truth"} of an annotation document.

    Args:
        document: what the JSON file holds.
        splits: of Karpathy's file, which of its splits are wanted.

    Raises:
        ValueError: it is none of the known forms; or it has several splits and none is chosen, for then test
            pictures would be trained on.
    """
    if isinstance(document, dict) and "images" in document and "annotations" not in document:
        return _karpathy(document, splits)
    if splits:
        raise ValueError("splits are given, but only Karpathy's dataset json has them: leave the key out")
    if isinstance(document, dict) and "images" in document:
        return _coco(document)
    if isinstance(document, list) and document and isinstance(document[0], dict) and "image" in document[0]:
        return _blip(document)
    if isinstance(document, dict) and "image_urls" in document and "captions" in document:
        return _sbu(document)
    raise ValueError(
        "a JSON object needs 'images' (COCO or Karpathy annotations) or 'image_urls' and 'captions' (SBU); "
        "a url list is an array of objects"
    )


def visual_genome_rows(images: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Visual Genome's region_descriptions.json: `[].{id, regions[].phrase}`, one row an image, `<id>.jpg`."""
    for image in images:
        found = image if isinstance(image, dict) else {}
        number, regions = found.get("id"), found.get("regions")
        phrases = (
            [r.get("phrase") for r in regions if isinstance(r, dict)] if isinstance(regions, list) else []
        )
        yield _row(f"{number}.jpg" if isinstance(number, int) else None, phrases)


def _coco(document: dict[str, Any]) -> list[dict[str, Any]]:
    """COCO captions: `images[].{id, file_name}` and `annotations[].{image_id, caption}`."""
    texts: dict[Any, list[str]] = {}
    for annotation in document["annotations"]:
        texts.setdefault(annotation["image_id"], []).append(annotation.get("caption"))
    return [_row(image.get("file_name"), texts.get(image["id"], [])) for image in document["images"]]


def _karpathy(document: dict[str, Any], splits: Sequence[str]) -> list[dict[str, Any]]:
    """Karpathy's dataset_coco.json: `images[].{filepath, filename, split, sentences[].raw}`."""
    present = sorted({str(image["split"]) for image in document["images"] if image.get("split")})
    unknown = sorted(set(splits) - set(present))
    if unknown or (len(present) > 1 and not splits):
        what = f"no split {', '.join(unknown)} in it" if unknown else "it has several splits"
        raise ValueError(f"{what}; choose among {', '.join(present)} with rows.splits, e.g. [train, restval]")
    rows = []
    for image in document["images"]:
        if not splits or image.get("split") in splits:
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


def _sbu(document: dict[str, Any]) -> list[dict[str, Any]]:
    """SBU's release: `image_urls` and `captions`, two lists side by side."""
    urls, captions = document["image_urls"], document["captions"]
    if len(urls) != len(captions):
        raise ValueError(f"{len(urls)} image_urls and {len(captions)} captions do not belong together")
    return [_row(url, [caption]) for url, caption in zip(urls, captions, strict=True)]


def _row(path: Any, texts: list[Any]) -> dict[str, Any]:
    return {
        "url": path if isinstance(path, str) else None,
        "texts": [t for t in texts if isinstance(t, str)],
        "truth": None,
    }
