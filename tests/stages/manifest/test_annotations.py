"""Formats of annotation documents, and values that are not text."""

import pytest

from capfilt.stages.manifest.annotations import parse_annotations, parse_visual_genome


def test_values_that_are_not_text_are_left_out():
    coco = {
        "images": [{"id": 1, "file_name": 7}, {"id": 2}, {"id": 3, "file_name": "3.jpg"}],
        "annotations": [{"image_id": 3, "caption": 8}, {"image_id": 3, "caption": "three"}, {"image_id": 3}],
    }
    assert parse_annotations(coco) == [
        {"url": None, "texts": [], "truth": None},
        {"url": None, "texts": [], "truth": None},
        {"url": "3.jpg", "texts": ["three"], "truth": None},
    ]
    blip = [{"image": "a.jpg", "caption": [1, "one"]}, {"image": "a.jpg"}, {"image": 5, "caption": "five"}]
    assert parse_annotations(blip) == [
        {"url": "a.jpg", "texts": ["one"], "truth": None},
        {"url": None, "texts": ["five"], "truth": None},
    ]


def test_coco_records_without_an_id_are_rows():
    coco = {
        "images": [{"file_name": "a.jpg"}, {"id": None, "file_name": "b.jpg"}, {"id": 3, "file_name": "c"},
                   {"id": [4], "file_name": "d.jpg"}, "e.jpg", None, {"id": "x", "file_name": "f.jpg"}],
        "annotations": [{"image_id": 3, "caption": "c"}, {"caption": "lost"}, {"image_id": {}, "caption": ""},
                        "text", {"image_id": "x", "caption": "f"}, {"image_id": 99, "caption": "of none"}],
    }  # fmt: skip
    assert [(row["url"], row["texts"]) for row in parse_annotations(coco)] == [
        ("a.jpg", []), ("b.jpg", []), ("c", ["c"]), ("d.jpg", []), (None, []), (None, []), ("f.jpg", ["f"]),
        (None, ["lost"]), (None, [""]), (None, []),
    ]  # fmt: skip


def test_other_annotations_without_their_keys_are_rows():
    karpathy = {"images": [{"filename": "a.jpg"}, "b", {"filename": 7, "sentences": "x"}, {"sentences": [3]},
                           {"filename": "c.jpg", "sentences": [{"raw": "c"}, None]}]}  # fmt: skip
    assert [(row["url"], row["texts"]) for row in parse_annotations(karpathy)] == [
        ("a.jpg", []), (None, []), (None, []), (None, []), ("c.jpg", ["c"]),
    ]  # fmt: skip
    blip = [
        {"image": "a.jpg", "caption": "a"},
        {"caption": "lost"},
        "text",
        {"image": "a.jpg", "caption": "b"},
    ]
    assert [(row["url"], row["texts"]) for row in parse_annotations(blip)] == [
        ("a.jpg", ["a", "b"]), (None, ["lost"]), (None, []),
    ]  # fmt: skip


def test_halves_of_surrogate_pairs_are_replaced():
    assert parse_annotations({"image_urls": ["a\ud800"], "captions": ["b\udfff"]}) == [
        {"url": "a?", "texts": ["b?"], "truth": None}
    ]
    (row,) = parse_visual_genome([{"id": 1, "regions": [{"phrase": "\ud800"}]}])
    assert row == {"url": "1.jpg", "texts": ["?"], "truth": None}


@pytest.mark.parametrize("document", [{}, [], ["a"], [{"url": "a"}], {"image_urls": []}, "text", None])
def test_documents_of_unknown_format_are_refused(document):
    with pytest.raises(ValueError, match="a JSON object needs 'images'"):
        parse_annotations(document)
