"""Test sets in every layout: images, ids, texts, and records that are no image."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.testset.layouts import BAD_RECORD, TestSetError, read_test_set
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.status import PENDING

COCO = {
    "images": [
        {"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"},
        {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
        {"id": 8, "file_name": "COCO_val2014_000000000008.jpg"},
    ],
    "annotations": [
        {"image_id": 7, "caption": "A dog."},
        {"image_id": 391895, "caption": "A man on a bike."},
        {"image_id": 7, "caption": "One dog, alone."},
    ],
}


def karpathy_image(name, split, *texts, **more):
    return {"filename": name, "split": split, "sentences": [{"raw": text} for text in texts], **more}


def read(tmp_path, document, split=None, limit=None, name="data.json"):
    path = tmp_path / name
    path.write_text(json.dumps(document))
    return read_test_set(str(path), split, limit)


def usable(test_set):
    return [(i.image_id, i.row["url"], i.row["texts"]) for i in test_set.images if i.status == PENDING]


def unusable(test_set):
    return [(i.image_id, i.message) for i in test_set.images if i.status == BAD_RECORD]


def test_coco_captions(tmp_path):
    found = read(tmp_path, COCO)
    assert usable(found) == [
        (391895, "COCO_val2014_000000391895.jpg", ["A man on a bike."]),
        (7, "COCO_val2014_000000000007.jpg", ["A dog.", "One dog, alone."]),
        (8, "COCO_val2014_000000000008.jpg", []),
    ]
    assert unusable(found) == [] and found.split is None


def test_images_of_coco_s_test_part_and_of_nocaps_have_no_texts(tmp_path):
    nocaps = {"info": {}, "images": [{"id": 0, "file_name": "0013ea2087020901.jpg", "domain": "in-domain"}]}
    assert usable(read(tmp_path, nocaps)) == [(0, "0013ea2087020901.jpg", [])]
    assert [image.domain for image in read(tmp_path, nocaps).images] == ["in-domain"]


def test_records_of_coco_that_are_no_image_are_kept_with_a_reason(tmp_path):
    document = {
        "images": [
            *COCO["images"],
            {"file_name": "a.jpg"},
            {"id": 7, "file_name": "b.jpg"},
            {"id": 10},
            "c.jpg",
        ],
        "annotations": [*COCO["annotations"], {"image_id": 99, "caption": "of none"}, {"caption": "lost"}],
    }
    found = read(tmp_path, document)
    assert [image_id for image_id, _, _ in usable(found)] == [391895, 7, 8]
    assert unusable(found) == [
        (None, "the record has no image id"),
        (7, "a second image with id 7"),
        (10, "the record names no image"),
        (None, "the record has no image id"),
        (None, "the record has no image id"),
        (99, "texts of image 99, which is not listed"),
    ]


def test_karpathy_reads_the_test_split_unless_another_one_is_named(tmp_path):
    document = {
        "images": [
            karpathy_image(
                "COCO_val2014_000000391895.jpg", "test", "A man.", filepath="val2014", cocoid=391895
            ),
            karpathy_image(
                "COCO_train2014_000000000009.jpg", "train", "Food.", filepath="train2014", cocoid=9
            ),
            karpathy_image(
                "COCO_val2014_000000000011.jpg", "test", "A cat.", "Cat", filepath="val2014", cocoid=11
            ),
        ]
    }
    found = read(tmp_path, document)
    assert found.split == "test" and usable(found) == [
        (391895, "val2014/COCO_val2014_000000391895.jpg", ["A man."]),
        (11, "val2014/COCO_val2014_000000000011.jpg", ["A cat.", "Cat"]),
    ]
    assert [i.image_id for i in read(tmp_path, document, split="train").images] == [9]
    with pytest.raises(TestSetError, match=r"--split val: .* no such split; choose among test, train"):
        read(tmp_path, document, split="val")


def test_images_of_flickr_have_the_numbers_of_their_files(tmp_path):
    document = {
        "images": [karpathy_image("1007129816.jpg", "test", "A man."), karpathy_image("36979.jpg", "test")]
    }
    assert [i.image_id for i in read(tmp_path, document).images] == [1007129816, 36979]
    document["images"][1]["filename"] = "man.jpg"
    assert [i.image_id for i in read(tmp_path, document).images] == [0, 1]
    document["images"][1]["filename"] = "0001007129816.jpg"
    assert [i.image_id for i in read(tmp_path, document).images] == [0, 1], "equal numbers are no ids"


def test_blip_lists(tmp_path):
    karpathy = [{"image": "val2014/COCO_val2014_000000391895.jpg", "caption": ["A man.", "A bike."]}]
    assert usable(read(tmp_path, karpathy)) == [(391895, karpathy[0]["image"], ["A man.", "A bike."])]
    nocaps = [{"image": "val/0013ea2087020901.jpg", "img_id": 0}, {"image": "val/00.jpg", "img_id": 1}]
    assert [(i.image_id, i.row["texts"]) for i in read(tmp_path, nocaps).images] == [(0, []), (1, [])]
    training = [{"image": "a_9.jpg", "caption": "A.", "image_id": "coco_1"},
                {"image": "a_9.jpg", "caption": "B.", "image_id": "coco_1"}]  # fmt: skip
    assert usable(read(tmp_path, training)) == [(9, "a_9.jpg", ["A.", "B."])]
    assert [
        i.image_id for i in read(tmp_path, [{"image": "a_9.jpg", "caption": "A.", "image_id": 4}]).images
    ] == [4]


def test_rows_of_a_manifest_with_one_url_are_one_image(tmp_path):
    table = {"url": ["b.jpg", "a.jpg", None, "b.jpg", None], "text": ["one", "two", "lost", "three", None]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("url,text\nb.jpg,one\na.jpg,two\n,lost\nb.jpg,three\n,\n")
    (tmp_path / "a.json").write_text(
        '{"url": "b.jpg", "text": ["one", "three"]}\n{"url": "a.jpg", "text": "two"}\n'
    )
    for name in ("a.parquet", "a.csv", "a.json"):
        found = read_test_set(str(tmp_path / name), None, None)
        assert usable(found) == [(0, "b.jpg", ["one", "three"]), (1, "a.jpg", ["two"])], name
        assert len(unusable(found)) == (0 if name == "a.json" else 2)


@pytest.mark.parametrize(("limit", "images"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_limit_takes_the_first_records(tmp_path, limit, images):
    found = read(tmp_path, COCO, limit=limit)
    assert [i.image_id for i in found.images] == [391895, 7, 8][:images]


@pytest.mark.parametrize(
    ("document", "split", "message"),
    [
        (COCO, "test", "--split test: .* has no splits, only Karpathy's dataset json has; remove --split"),
        ([{"url": "a.jpg", "text": "a"}], "test", "has no splits"),
        ({"images": []}, None, "it has no images"),
        ({"images": 3}, None, "its images are no list"),
        ({"images": [{"id": 1, "file_name": "a"}], "annotations": 5}, None, "annotations of an unknown form"),
        ({"image_urls": ["a"], "captions": []}, None, "1 image_urls and 0 captions"),
    ],
)
def test_mistakes_are_one_line(tmp_path, document, split, message):
    with pytest.raises(TestSetError, match=message) as error:
        read(tmp_path, document, split)
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path):
    for name in ("a.tar", "b.txt"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(TestSetError, match=r"a (tar|txt) file; give one file: COCO"):
            read_test_set(str(tmp_path / name), None, None)
    with pytest.raises(ManifestError, match=r"--data\.manifest: no file at"):
        read_test_set(str(tmp_path / "none.json"), None, None)
    (tmp_path / "broken.json").write_text('{"images": [')
    with pytest.raises(ManifestError, match=r"broken\.json"):
        read_test_set(str(tmp_path / "broken.json"), None, None)
    for name in ("a.csv", "b.csv"):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / "many" / name).write_text("url,text\na,b\n")
    with pytest.raises(TestSetError, match="2 files; give one file"):
        read_test_set(str(tmp_path / "many"), None, None)
