"""Indexes of manifests: rows and shards in every format, annotation files, and errors of the config."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.stages.manifest import cut
from capfilt.stages.manifest import index as index_module
from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.index import build_index, check_manifest, read_shard
from capfilt.stages.storage.store import Store

ROWS = [{"url": f"http://a/{i}.jpg", "caption": f"text {i}"} for i in range(7)]


def write_manifest(folder, suffix):
    path = folder / f"list.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)
    elif suffix in ("csv", "tsv"):
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["url", "caption"], delimiter="," if suffix == "csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    elif suffix == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(json.dumps(r) for r in ROWS).encode()))
    else:
        path.write_text(json.dumps(ROWS))
    return path


def index_manifest(tmp_path, **config):
    """(index, its rows) of a manifest."""
    store = Store(str(tmp_path / "index"))
    index = build_index(ManifestConfig(**config), store, source="web")
    return index, [row for s in range(index.shards) for row in read_shard(store, s).to_pylist()]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv", "json", "jsonl.gz"])
def test_every_format_gives_the_same_rows_in_shards(tmp_path, suffix):
    index, rows = index_manifest(tmp_path, manifest=str(write_manifest(tmp_path, suffix)), shard_size=3)
    assert (index.rows, index.shards) == (7, 3)
    assert [(r["url"], r["texts"]) for r in rows] == [(r["url"], [r["caption"]]) for r in ROWS]
    assert [read_shard(Store(str(tmp_path / "index")), s).num_rows for s in range(3)] == [3, 3, 1]


def test_a_single_quote_does_not_join_lines_of_a_tsv(tmp_path):
    path = tmp_path / "cc3m.tsv"
    path.write_text('a "big dog\thttp://a/1\nsecond\thttp://a/2\n')
    _, rows = index_manifest(tmp_path, manifest=str(path), columns=("caption", "url"))
    assert [(r["url"], r["texts"]) for r in rows] == [
        ("http://a/1", ['a "big dog']),
        ("http://a/2", ["second"]),
    ]


def test_rows_with_unusable_values_are_kept(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(
        '{"url": null, "caption": "x"}\n{"url": 7, "caption": 8}\n{"url": "http://a", "caption": null}\n'
    )
    _, rows = index_manifest(tmp_path, manifest=str(path))
    assert [(r["url"], r["texts"]) for r in rows] == [(None, ["x"]), (None, []), ("http://a", [])]


def test_coco_annotations_give_one_row_per_image(tmp_path):
    document = {
        "images": [{"id": 5, "file_name": "5.jpg"}, {"id": 6, "file_name": "6.jpg"}],
        "annotations": [
            {"image_id": 6, "caption": "six"},
            {"image_id": 5, "caption": "five"},
            {"image_id": 5, "caption": "fünf"},
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(document))
    _, rows = index_manifest(tmp_path, manifest=str(tmp_path / "captions.json"))
    assert [(r["url"], r["texts"]) for r in rows] == [("5.jpg", ["five", "fünf"]), ("6.jpg", ["six"])]


def test_karpathy_and_blip_lists_give_one_row_per_image(tmp_path):
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
    _, rows = index_manifest(tmp_path / "1", manifest=str(tmp_path / "k.json"))
    assert [(r["url"], r["texts"]) for r in rows] == [("val/a.jpg", ["A.", "B."])]
    _, rows = index_manifest(tmp_path / "2", manifest=str(tmp_path / "b.json"))
    assert [(r["url"], r["texts"]) for r in rows] == [("a.jpg", ["one", "two"]), ("b.jpg", ["x", "y"])]


def test_karpathy_splits_must_be_chosen(tmp_path):
    images = [
        {"filename": f"{i}.jpg", "split": split, "sentences": [{"raw": split}]}
        for i, split in enumerate(("train", "test", "restval", "val", "train"))
    ]
    (tmp_path / "k.json").write_text(json.dumps({"images": images}))
    manifest = str(tmp_path / "k.json")
    _, rows = index_manifest(tmp_path / "1", manifest=manifest, splits=("train", "restval"))
    assert [r["url"] for r in rows] == ["0.jpg", "2.jpg", "4.jpg"]
    for splits, message in (((), "it has several splits"), (("training",), "it has no split training")):
        with pytest.raises(ManifestError, match=f"{message}; choose among restval, test, train, val with"):
            index_manifest(tmp_path / "2", manifest=manifest, splits=splits)
    for suffix in ("csv", "json"):
        other = write_manifest(tmp_path, suffix)
        with pytest.raises(ManifestError, match="only Karpathy's dataset json has splits"):
            index_manifest(tmp_path / "3", manifest=str(other), splits=("train",))


def test_the_truth_column_is_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("url,caption,truth\nhttp://a,x,clean\nhttp://b,y,mismatched\n")
    _, rows = index_manifest(tmp_path, manifest=str(path), truth_column="truth")
    assert [r["truth"] for r in rows] == ["clean", "mismatched"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"manifest": "{dir}/none.parquet"}, "sources.web.rows.manifest: no file at"),
        (
            {"manifest": "{dir}/list.csv", "url_column": "link"},
            r"no column 'link' in .*; it has url, caption",
        ),
        (
            {"manifest": "{dir}/list.csv", "truth_column": "label"},
            "sources.web.rows.truth_column: no column 'label'",
        ),
        ({"manifest": "{dir}/list.weird"}, "unknown suffix of .*list.weird; allowed: .parquet, .csv"),
        ({"manifest": "{dir}/empty.csv"}, "has no rows"),
        ({"manifest": "{dir}/broken.parquet"}, "cannot read .*broken.parquet as parquet"),
        ({"manifest": "{dir}/broken.jsonl"}, "cannot read .*broken.jsonl as jsonl .line 1 is not JSON"),
        ({"manifest": ""}, "sources.web.rows.manifest: empty; give a file"),
    ],
)
def test_config_errors_are_one_line(tmp_path, config, message):
    write_manifest(tmp_path, "csv")
    (tmp_path / "list.weird").write_text("x")
    (tmp_path / "empty.csv").write_text("url,caption\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "broken.jsonl").write_text('{oops\n{"url": "a"}\n')
    config = {k: v.format(dir=tmp_path) for k, v in config.items()}
    with pytest.raises(ManifestError, match=message) as error:
        index_manifest(tmp_path, **config)
    assert "\n" not in str(error.value)


def test_an_index_is_reused_until_its_manifest_changes(tmp_path):
    path = write_manifest(tmp_path, "csv")
    config = ManifestConfig(manifest=str(path), shard_size=3)
    store = Store(str(tmp_path / "index"))
    first = build_index(config, store, source="web")
    assert build_index(config, store, source="web") == first
    path.write_text(path.read_text() + "http://new,new\n")
    with pytest.raises(ManifestError, match="has changed since"):
        build_index(config, store, source="web")


def test_a_shard_is_read_from_the_part_that_holds_it(tmp_path, monkeypatch):
    for module in (cut, index_module):
        monkeypatch.setattr(module, "SHARDS_PER_PART", 2)
    index, rows = index_manifest(tmp_path, manifest=str(write_manifest(tmp_path, "csv")), shard_size=1)
    assert [part.name for part in index.parts] == [f"0000{part}.parquet" for part in range(4)]
    assert [
        pq.read_metadata(tmp_path / f"index/parts/0000{part}.parquet").num_row_groups for part in range(4)
    ] == [
        2,
        2,
        2,
        1,
    ]
    assert [row["url"] for row in rows] == [row["url"] for row in ROWS]


def test_only_a_single_file_without_rows_is_refused_before_the_run(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("url,caption\n")
    (tmp_path / "c.tar").write_bytes(b"not read")
    with pytest.raises(ManifestError, match=r"sources.web.rows.manifest: .*a.csv has no rows"):
        check_manifest(ManifestConfig(manifest=str(tmp_path / "a.csv")), "sources.web.rows")
    check_manifest(ManifestConfig(manifest=str(tmp_path)), "sources.web.rows")
    check_manifest(ManifestConfig(manifest=str(tmp_path / "c.tar")), "sources.web.rows")
