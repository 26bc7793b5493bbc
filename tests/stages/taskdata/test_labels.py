"""Images with labels in every layout, broken records, and the classes that labels stand for."""

import json

import pytest

from capfilt.stages.taskdata.labels import labels_of, list_classes, name_classes, read_labels
from capfilt.stages.taskdata.records import BAD_RECORD, TaskDataError


def found(path):
    """{image: labels} of the records that can be used."""
    return {
        record.images[0]: record.samples[0].answers
        for record in read_labels(str(path), "data")
        if record.samples
    }


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


EXPECTED = {"a/1.jpg": ["red dog"], "a/2.jpg": ["7"], "é.png": ["cat", "pet"]}
ENTRIES = [
    {"image": "a/1.jpg", "label": "red dog"},
    {"path": "a/2.jpg", "class": 7},
    {"url": "é.png", "labels": ["cat", " pet "]},
]
COCO = {
    "images": [{"id": i, "file_name": name} for i, name in enumerate([*EXPECTED, "without.jpg"])],
    "categories": [{"id": i, "name": name} for i, name in enumerate(["red dog", "7", "cat", "pet"])],
    "annotations": [
        {"image_id": image, "category_id": category}
        for image, category in [(0, 0), (0, 0), (1, 1), (2, 2), (2, 3)]
    ],
}


@pytest.mark.parametrize("layout", ["json", "jsonl", "coco", "pretty"])
def test_lists_of_images_and_labels(tmp_path, layout):
    path = tmp_path / f"labels.{layout}"
    if layout == "jsonl":
        write(path, "\n".join(map(json.dumps, ENTRIES)) + "\n\n")
    else:
        write(
            path, json.dumps(COCO if layout == "coco" else ENTRIES, indent=1 if layout == "pretty" else None)
        )
    assert found(path) == EXPECTED


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.TSV", "\t")])
def test_tables_of_images_and_labels(tmp_path, name, separator):
    rows = [["file_name", "note", "category"], ["a/1.jpg", "", '"red dog"'], ["a/2.jpg", "x", "7"]]
    path = write(tmp_path / name, "\n".join(separator.join(row) for row in rows))
    assert found(path) == {"a/1.jpg": ["red dog"], "a/2.jpg": ["7"]}


def test_a_folder_for_each_class(tmp_path):
    for name in ("red_dog/2.jpg", "red_dog/1.PNG", "cat/1.jpg", "cat/.hidden.jpg", "cat/notes.txt", "top.jpg",
                 "cat/deep/3.jpg"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    assert found(tmp_path) == {
        "cat/1.jpg": ["cat"],
        "red_dog/1.PNG": ["red_dog"],
        "red_dog/2.jpg": ["red_dog"],
    }
    assert list_classes(str(tmp_path)) == {
        "cat": {"1.jpg": 9}, "red_dog": {"1.PNG": 13, "2.jpg": 13},
    }  # fmt: skip
    assert list_classes(str(tmp_path / "top.jpg")) is None
    assert labels_of(read_labels(str(tmp_path), "data")) == ["cat", "red_dog"]


def test_broken_records_are_rows_with_a_reason(tmp_path):
    entries = [
        ENTRIES[0], {"image": "b.jpg"}, {"label": "x"}, {"image": "c.jpg", "label": True}, 3,
        {"image": "d.jpg", "label": []}, {"image": "e.jpg", "label": ["x", ""]},
    ]  # fmt: skip
    lines = "\n".join([*map(json.dumps, entries), "{broken"])
    records = read_labels(str(write(tmp_path / "a.jsonl", lines)), "data")
    assert [record.status for record in records] == ["pending"] + [BAD_RECORD] * 7
    assert records[1].message == "none of label, labels, class, category is given"
    assert records[7].message.startswith("line 8 is no JSON")
    broken = COCO | {
        "annotations": [*COCO["annotations"], {"image_id": 99, "category_id": 0}, {"image_id": 0}]
    }
    records = read_labels(str(write(tmp_path / "b.json", broken)), "data")
    messages = [record.message for record in records if record.status == BAD_RECORD]
    assert messages == ["image 99 is not listed", "category_id or image_id: 'category_id'"]


@pytest.mark.parametrize("content", ["[]", "{}", '{"images": [], "categories": [{}]}', "[1]", "text"])
def test_another_layout_is_one_line(tmp_path, content):
    with pytest.raises(TaskDataError, match=r"^data\.file: .*(no images with labels|COCO|as JSON)") as error:
        read_labels(str(write(tmp_path / "a.json", content)), "data")
    assert "\n" not in str(error.value)


def test_labels_stand_for_the_classes_of_a_list_or_an_object(tmp_path):
    assert name_classes(["red_dog", "cat"], None, "key") == {"red_dog": "red dog", "cat": "cat"}
    listed = str(write(tmp_path / "list.json", ["crane", "dog", "crane", "cat"]))
    assert name_classes(["cat", "dog"], listed, "key") == {"crane": "crane", "dog": "dog", "cat": "cat"}
    assert name_classes(["0", "3"], listed, "key") == {"0": "crane", "1": "dog", "2": "crane", "3": "cat"}
    named = str(write(tmp_path / "object.json", {"n01": "tench", "n02": "goldfish"}))
    assert name_classes(["n02"], named, "key") == {"n01": "tench", "n02": "goldfish"}
    with pytest.raises(TaskDataError, match=r"lacks 1 labels of the images \(first: '4'\)"):
        name_classes(["0", "4"], listed, "key")
    for bad in ([], {}, [1], {"a": ""}, 3):
        with pytest.raises(TaskDataError, match="has no classes; give a JSON list of texts"):
            name_classes(["a"], str(write(tmp_path / "bad.json", bad)), "key")
