"""What the writer leaves is read by other people's tools, and adds up."""

import io
import json

import duckdb
import pyarrow as pa
import pytest
from PIL import Image

from capfilt.stages.rows import CANDIDATE, ROW_SCHEMA, row_key, table_of, with_column
from capfilt.stages.shards.pack import image_extension
from capfilt.stages.shards.read import Read, ReadConfig, read_corpus_shard
from capfilt.stages.shards.write import OtherImages, Provenance, Write, WriteConfig
from capfilt.stages.storage.layout import corpus_shard
from capfilt.stages.storage.store import Store
from tests.runs import walk


def picture(colour, form="JPEG"):
    sink = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(sink, form)
    return sink.getvalue()


def rows(shard=3):
    made = []
    for i, status in enumerate(["success", "http_404", "success"]):
        stored = status == "success"
        made.append(
            {
                "key": row_key(shard, i),
                "source": "web",
                "shard": shard,
                "url": f"http://a/{i}?x=<b>",
                "caption": f"text {i} é\n",
                "texts": [f"text {i} é\n"],
                "truth": "clean",
                "status": status,
                "error_message": None if stored else "404 Not Found",
                "width": 8 if stored else None,
                "height": 6 if stored else None,
                "sha256": "ab" * 32 if stored else None,
                "image": picture((i, 0, 0)) if stored else None,
            }
        )
    return table_of(made, ROW_SCHEMA)


def judged(batch):
    def candidate(origin, index, kept):
        return {
            "origin": origin,
            "caption_index": index,
            "text": "t",
            "seed": 5 if origin == "synthetic" else None,
            "itm_prob": None if kept is None else 0.9 if kept else 0.25,
            "itc_sim": None if kept is None else 0.5,
            "kept": kept,
            "flags": ["empty"] if kept is None else [],
        }

    lists = [
        [candidate("web", 0, True), candidate("synthetic", 0, False), candidate("synthetic", 1, True)],
        [],
        [candidate("web", 0, None), candidate("synthetic", 0, False)],
    ]
    return with_column(batch, "candidates", lists, pa.list_(CANDIDATE))


PROVENANCE = Provenance(
    captioner="cc", filter="ff", top_p=0.9, top_k=0, repetition_penalty=1.0, threshold=0.5
)


@pytest.fixture
def run(tmp_path):
    return Store(str(tmp_path / "run"))


def write(run, batch, **config):
    return json.loads(Write(WriteConfig(run_dir=run, **config))(batch)["records"][0].as_py())


def test_corpus_shard_comes_back_as_it_went_in(run):
    batch = rows()
    record = write(run, batch, corpus_fingerprints={"web": "f"})["corpus"]
    assert record["rows"] == {"read": 3, "status": {"success": 2, "http_404": 1}}
    assert record["texts"] == 2
    assert read_corpus_shard(run, corpus_shard("web", 3)).to_pylist() == batch.to_pylist()
    again = Read(ReadConfig(run_dir=run))(pa.Table.from_pylist([{"source": "web", "shard": 3}]))
    assert again.to_pylist() == batch.to_pylist()


def test_webdataset_reads_the_tar_unchanged(run, tmp_path):
    import webdataset

    write(run, rows(), corpus_fingerprints={"web": "f"})
    tar = str(tmp_path / "run/corpus/web/{000003..000003}.tar")
    samples = list(webdataset.WebDataset(tar, shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["00000300000", "00000300002"]
    assert samples[1]["jpg"] == picture((2, 0, 0))
    assert samples[1]["txt"].decode() == "text 2 é\n"
    assert json.loads(samples[1]["json"])["url"] == "http://a/2?x=<b>"


def test_datasets_reads_corpus_and_candidates_unchanged(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    write(
        run,
        judged(rows()),
        round=1,
        round_fingerprint="r",
        provenance=PROVENANCE,
        corpus_fingerprints={"web": "f"},
    )
    for pattern, count in (("corpus/web/*.parquet", 3), ("rounds/1/web/*.parquet", 5)):
        loaded = datasets.load_dataset(
            "parquet",
            data_files=str(tmp_path / "run" / pattern),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        assert loaded.num_rows == count
    assert loaded["kept"] == [True, False, True, None, False]


def test_ratio_query_of_the_design_is_dropped_by_judged(run, tmp_path):
    record = write(run, judged(rows()), round=1, round_fingerprint="r", provenance=PROVENANCE)["candidates"]
    assert record["candidates"] == {"synthetic": {"dropped": 2, "kept": 1}, "web": {"kept": 1, "unjudged": 1}}
    query = (
        f"SELECT origin, 1 - avg(kept::int) FROM '{tmp_path}/run/rounds/1/**/*.parquet' GROUP BY 1 ORDER BY 1"
    )
    assert duckdb.sql(query).fetchall() == [("synthetic", pytest.approx(2 / 3)), ("web", 0.0)]


def test_late_attempt_loses_and_changes_nothing(run):
    first = write(run, rows(), corpus_fingerprints={"web": "first"})["corpus"]
    before = {name: run.read(name) for name in walk(run)}
    assert write(run, rows().slice(0, 1), corpus_fingerprints={"web": "second"})["corpus"] == first
    assert {name: run.read(name) for name in walk(run)} == before


def test_candidates_are_never_made_of_images_that_the_corpus_does_not_hold(run, monkeypatch):
    """A node that is cut off has the shard in hand as well, and the web gave it other pictures."""
    ours, theirs = judged(rows()), with_column(rows(), "sha256", ["cd" * 32, None, None], pa.string())
    both = {
        "corpus_fingerprints": {"web": "f"},
        "round": 1,
        "round_fingerprint": "g",
        "provenance": PROVENANCE,
    }
    create = Store.create

    def overtaken(store, name, data):
        if name == "corpus/web/000003.json" and not store.exists(name):
            monkeypatch.setattr(Store, "create", create)
            write(run, theirs, corpus_fingerprints={"web": "f"})
        return create(store, name, data)

    monkeypatch.setattr(Store, "create", overtaken)
    for _ in range(2):  # overtaken between its files and its record, then before it begins
        with pytest.raises(OtherImages, match="000003: another attempt has stored other images meanwhile"):
            write(run, ours, **both)
        assert not run.exists("rounds/1/web")
    again = Read(ReadConfig(run_dir=run))(pa.Table.from_pylist([{"source": "web", "shard": 3}]))
    record = write(run, judged(again), **both)["candidates"]
    assert record["candidates"]["web"]["kept"] == 1


def test_equal_rows_give_equal_bytes(tmp_path):
    stores = [Store(str(tmp_path / name)) for name in "ab"]
    for store in stores:
        write(store, rows(), corpus_fingerprints={"web": "f"})
    first, second = (store.read("corpus/web/000003.tar") for store in stores)
    assert first == second


def test_missing_image_in_a_committed_shard_is_said(run):
    write(run, rows(), corpus_fingerprints={"web": "f"})
    run.put("corpus/web/000003.tar", b"\0" * 10240)
    with pytest.raises(ValueError, match="has no image 00000300000"):
        read_corpus_shard(run, corpus_shard("web", 3))


@pytest.mark.parametrize(
    ("form", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif")]
)
def test_extension_follows_the_bytes(form, extension):
    assert image_extension(picture((1, 2, 3), form)) == extension
