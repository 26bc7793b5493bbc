import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import ManifestError, build_index, read_slice
from capfilt.stages.storage.store import Store

ROWS = [{"url": f"http://a/{i}.jpg", "caption": f"text {i}"} for i in range(7)]


def write(folder, form):
    path = folder / f"list.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)
    elif form in ("csv", "tsv"):
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["url", "caption"], delimiter="," if form == "csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(json.dumps(r) for r in ROWS).encode()))
    else:
        path.write_text(json.dumps(ROWS))
    return path


def index_of(tmp_path, **config):
    store = Store(str(tmp_path / "index"))
    index = build_index(ManifestConfig(**config), store, source="web")
    return index, [row for s in range(index.shards) for row in read_slice(store, s).to_pylist()]


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "json", "jsonl.gz"])
def test_every_form_gives_the_same_rows_in_slices(tmp_path, form):
    index, rows = index_of(tmp_path, manifest=str(write(tmp_path, form)), shard_size=3)
    assert (index.rows, index.shards) == (7, 3)
    assert [(r["url"], r["texts"]) for r in rows] == [(r["url"], [r["caption"]]) for r in ROWS]
    assert [read_slice(Store(str(tmp_path / "index")), s).num_rows for s in range(3)] == [3, 3, 1]


def test_headerless_tsv_with_a_lone_quote_keeps_its_lines(tmp_path):
    path = tmp_path / "cc3m.tsv"
    path.write_text('a "big dog\thttp://a/1\nsecond\thttp://a/2\n')
    _, rows = index_of(tmp_path, manifest=str(path), columns=("caption", "url"))
    assert [(r["url"], r["texts"]) for r in rows] == [
        ("http://a/1", ['a "big dog']),
        ("http://a/2", ["second"]),
    ]


def test_bad_rows_stay_rows(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(
        '{"url": null, "caption": "x"}\n{"url": 7, "caption": 8}\n{"url": "http://a", "caption": null}\n'
    )
    _, rows = index_of(tmp_path, manifest=str(path))
    assert [(r["url"], r["texts"]) for r in rows] == [(None, ["x"]), (None, []), ("http://a", [])]


def test_coco_annotations_give_one_row_per_image_with_all_texts(tmp_path):
    document = {
        "images": [{"id": 5, "file_name": "5.jpg"}, {"id": 6, "file_name": "6.jpg"}],
        "annotations": [
            {"image_id": 6, "caption": "six"},
            {"image_id": 5, "caption": "five"},
            {"image_id": 5, "caption": "fünf"},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(document))
    _, rows = index_of(tmp_path, manifest=str(tmp_path / "captions.json"))
    assert [(r["url"], r["texts"]) for r in rows] == [("5.jpg", ["five", "fünf"]), ("6.jpg", ["six"])]


def test_karpathy_and_blip_lists_are_read(tmp_path):
    karpathy = {
        "images": [{"filepath": "val", "filename": "a.jpg", "sentences": [{"raw": "A."}, {"raw": "B."}]}]
    }
    (tmp_path / "k.json").write_text(json.dumps(karpathy))
    blip = [
        {"image": "a.jpg", "caption": "one"},
        {"image": "b.jpg", "caption": ["x", "y"]},
        {"image": "a.jpg", "caption": "two"},
    ]
    (tmp_path / "b.json").write_text(json.dumps(blip))
    _, rows = index_of(tmp_path / "1", manifest=str(tmp_path / "k.json"))
    assert [(r["url"], r["texts"]) for r in rows] == [("val/a.jpg", ["A.", "B."])]
    _, rows = index_of(tmp_path / "2", manifest=str(tmp_path / "b.json"))
    assert [(r["url"], r["texts"]) for r in rows] == [("a.jpg", ["one", "two"]), ("b.jpg", ["x", "y"])]


def test_karpathy_splits_must_be_chosen(tmp_path):
    images = [
        {"filename": f"{i}.jpg", "split": split, "sentences": [{"raw": split}]}
        for i, split in enumerate(("train", "test", "restval", "val", "train"))
    ]
    (tmp_path / "k.json").write_text(json.dumps({"images": images}))
    manifest = str(tmp_path / "k.json")
    _, rows = index_of(tmp_path / "1", manifest=manifest, splits=("train", "restval"))
    assert [r["url"] for r in rows] == ["0.jpg", "2.jpg", "4.jpg"]
    for splits, message in (((), "it has several splits"), (("training",), "no split training in it")):
        with pytest.raises(ManifestError, match=f"{message}; choose among restval, test, train, val with"):
            index_of(tmp_path / "2", manifest=manifest, splits=splits)
    for form in ("csv", "json"):
        other = write(tmp_path, form)
        with pytest.raises(ManifestError, match="only Karpathy's dataset json has them"):
            index_of(tmp_path / "3", manifest=str(other), splits=("train",))


def test_truth_column_travels(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("url,caption,truth\nhttp://a,x,clean\nhttp://b,y,mismatched\n")
    _, rows = index_of(tmp_path, manifest=str(path), truth_column="truth")
    assert [r["truth"] for r in rows] == ["clean", "mismatched"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"manifest": "{dir}/none.parquet"}, "sources.web.manifest: no file at"),
        (
            {"manifest": "{dir}/list.csv", "url_column": "link"},
            r"no column 'link' in .*; it has url, caption",
        ),
        (
            {"manifest": "{dir}/list.csv", "truth_column": "label"},
            "sources.web.truth_column: no column 'label'",
        ),
        ({"manifest": "{dir}/list.weird"}, "cannot tell the form"),
        ({"manifest": "{dir}/empty.csv"}, "has no rows"),
        ({"manifest": "{dir}/broken.parquet"}, "cannot read .*broken.parquet as parquet"),
        ({"manifest": "{dir}/broken.jsonl"}, "cannot read .*broken.jsonl as jsonl .line 1 is not JSON"),
        ({"manifest": ""}, "nothing given"),
    ],
)
def test_mistakes_are_one_clear_line(tmp_path, config, message):
    write(tmp_path, "csv")
    (tmp_path / "list.weird").write_text("x")
    (tmp_path / "empty.csv").write_text("url,caption\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "broken.jsonl").write_text('{oops\n{"url": "a"}\n')
    config = {k: v.format(dir=tmp_path) for k, v in config.items()}
    with pytest.raises(ManifestError, match=message) as error:
        index_of(tmp_path, **config)
    assert "\n" not in str(error.value)


def test_changed_manifest_is_refused_and_same_one_is_reused(tmp_path):
    path = write(tmp_path, "csv")
    config = ManifestConfig(manifest=str(path), shard_size=3)
    store = Store(str(tmp_path / "index"))
    first = build_index(config, store, source="web")
    assert build_index(config, store, source="web") == first
    path.write_text(path.read_text() + "http://new,new\n")
    with pytest.raises(ManifestError, match="has changed since"):
        build_index(config, store, source="web")
