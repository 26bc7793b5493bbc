"""Written shards: readable by other tools, counted, and committed once."""

import io
import json
from dataclasses import replace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.stages.rows import CANDIDATE_SCHEMA, CANDIDATE_TYPE, ROW_SCHEMA, row_key, table_of, with_column
from capfilt.stages.shards.read import Read, ReadConfig, read_corpus_shard
from capfilt.stages.shards.write import DifferentImages, Provenance, Write, WriteConfig
from capfilt.stages.storage.layout import corpus_shard
from capfilt.stages.storage.store import Store
from tests.runs import walk


def encode_image(color):
    sink = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(sink, "JPEG")
    return sink.getvalue()


def make_batch(shard=3):
    """Three rows, the second of which failed."""
    rows = []
    for i, status in enumerate(["success", "http_404", "success"]):
        is_stored = status == "success"
        rows.append(
            {
                "key": row_key(shard, i),
                "source": "web",
                "shard": shard,
                "url": f"http://a/{i}?x=<b>",
                "caption": f"text {i} é\n",
                "texts": [f"text {i} é\n"],
                "truth": "clean",
                "status": status,
                "error_message": None if is_stored else "404 Not Found",
                "width": 8 if is_stored else None,
                "height": 6 if is_stored else None,
                "sha256": "ab" * 32 if is_stored else None,
                "image": encode_image((i, 0, 0)) if is_stored else None,
            }
        )
    return table_of(rows, ROW_SCHEMA)


def add_candidates(batch):
    """`batch` with judged candidates of its three rows."""

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
    return with_column(batch, "candidates", lists, pa.list_(CANDIDATE_TYPE))


PROVENANCE = Provenance(
    captioner="cc",
    filter="ff",
    top_p=0.9,
    top_k=0,
    repetition_penalty=1.0,
    thresholds={"web": 0.5, "synthetic": 0.5},
)


@pytest.fixture
def run_dir(tmp_path):
    return Store(str(tmp_path / "run"))


def write(run_dir, batch, **config):
    return json.loads(Write(WriteConfig(run_dir=run_dir, **config))(batch)["records"][0].as_py())


def test_a_corpus_shard_is_read_as_it_was_written(run_dir):
    batch = make_batch()
    record = write(run_dir, batch, corpus_fingerprints={"web": "f"})["corpus"]
    assert record["rows"] == {"read": 3, "status": {"success": 2, "http_404": 1}}
    assert record["texts"] == 2
    assert read_corpus_shard(run_dir, corpus_shard("web", 3)).to_pylist() == batch.to_pylist()
    again = Read(ReadConfig(run_dir=run_dir))(pa.Table.from_pylist([{"source": "web", "shard": 3}]))
    assert again.to_pylist() == batch.to_pylist()


@pytest.mark.parametrize("asked", [False, True])
def test_candidates_have_a_language_only_where_it_is_asked_for(run_dir, tmp_path, asked):
    provenance = replace(PROVENANCE, language=asked)
    batch = add_candidates(make_batch())
    lists = [[each | {"language": "de"} for each in of_row] for of_row in batch["candidates"].to_pylist()]
    batch = with_column(batch, "candidates", lists, pa.list_(CANDIDATE_TYPE))
    write(run_dir, batch, round=1, round_fingerprint="r", provenance=provenance,
          corpus_fingerprints={"web": "f"})  # fmt: skip
    table = pq.read_table(tmp_path / "run/rounds/1/web/000003.parquet")
    assert table.column_names == [*CANDIDATE_SCHEMA.names, *(["language"] if asked else [])]
    assert not asked or table["language"].to_pylist() == ["de"] * 5


def test_own_texts_of_an_ensemble_keep_the_name_of_their_captioner(run_dir, tmp_path):
    batch = add_candidates(make_batch())
    names = {("web", 0): None, ("synthetic", 0): "dd", ("synthetic", 1): "cc"}
    lists = [
        [each | {"captioner": names[each["origin"], each["caption_index"]]} for each in of_row]
        + [each | {"caption_index": 7, "captioner": "recap", "seed": None} for each in of_row[-1:]]
        for of_row in batch["candidates"].to_pylist()
    ]
    batch = with_column(batch, "candidates", lists, pa.list_(CANDIDATE_TYPE))
    provenance = replace(PROVENANCE, other_captioners=("dd",))
    write(run_dir, batch, round=1, round_fingerprint="r", provenance=provenance,
          corpus_fingerprints={"web": "f"})  # fmt: skip
    rows = pq.read_table(tmp_path / "run/rounds/1/web/000003.parquet").to_pylist()
    sampled = {(c["captioner"], c["top_p"] is not None, c["top_k"]) for c in rows}
    assert sampled == {(None, False, None), ("cc", True, 0), ("dd", True, 0), ("recap", False, None)}


def test_webdataset_reads_the_tar(run_dir, tmp_path):
    import webdataset

    write(run_dir, make_batch(), corpus_fingerprints={"web": "f"})
    tar = str(tmp_path / "run/images/web/{000003..000003}.tar")
    samples = list(webdataset.WebDataset(tar, shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["00000300000", "00000300002"]
    assert samples[1]["jpg"] == encode_image((2, 0, 0))
    assert samples[1]["txt"].decode() == "text 2 é\n"
    assert json.loads(samples[1]["json"])["url"] == "http://a/2?x=<b>"


def test_datasets_reads_corpus_and_candidates(run_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    write(
        run_dir,
        add_candidates(make_batch()),
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


def test_the_noise_ratio_of_a_query_is_dropped_by_judged(run_dir, tmp_path):
    record = write(
        run_dir, add_candidates(make_batch()), round=1, round_fingerprint="r", provenance=PROVENANCE
    )["candidates"]
    assert record["candidates"] == {"synthetic": {"dropped": 2, "kept": 1}, "web": {"kept": 1, "unjudged": 1}}
    query = (
        f"SELECT origin, 1 - avg(kept::int) FROM '{tmp_path}/run/rounds/1/**/*.parquet' GROUP BY 1 ORDER BY 1"
    )
    assert duckdb.sql(query).fetchall() == [("synthetic", pytest.approx(2 / 3)), ("web", 0.0)]


def test_a_late_attempt_changes_nothing(run_dir):
    first = write(run_dir, make_batch(), corpus_fingerprints={"web": "first"})["corpus"]
    before = {name: run_dir.read(name) for name in walk(run_dir)}
    assert write(run_dir, make_batch().slice(0, 1), corpus_fingerprints={"web": "second"})["corpus"] == first
    assert {name: run_dir.read(name) for name in walk(run_dir)} == before


def test_no_candidates_are_written_for_images_that_were_not_committed(run_dir, monkeypatch):
    """A node that lost its connection to the cluster processes the same shard, and downloads other images."""
    ours = add_candidates(make_batch())
    theirs = with_column(make_batch(), "sha256", ["cd" * 32, None, None], pa.string())
    both = {
        "corpus_fingerprints": {"web": "f"},
        "round": 1,
        "round_fingerprint": "g",
        "provenance": PROVENANCE,
    }
    create = Store.create

    def overtaken(store, name, data):
        if name == "records/corpus/web/000003.json" and not store.exists(name):
            monkeypatch.setattr(Store, "create", create)
            write(run_dir, theirs, corpus_fingerprints={"web": "f"})
        return create(store, name, data)

    monkeypatch.setattr(Store, "create", overtaken)
    for _ in range(2):  # overtaken between its files and its record, then before it starts
        with pytest.raises(DifferentImages, match="000003: another attempt has committed other images; "):
            write(run_dir, ours, **both)
        assert not run_dir.exists("rounds/1/web")
    again = Read(ReadConfig(run_dir=run_dir))(pa.Table.from_pylist([{"source": "web", "shard": 3}]))
    record = write(run_dir, add_candidates(again), **both)["candidates"]
    assert record["candidates"]["web"]["kept"] == 1


def test_equal_rows_give_equal_bytes(tmp_path):
    stores = [Store(str(tmp_path / name)) for name in "ab"]
    for store in stores:
        write(store, make_batch(), corpus_fingerprints={"web": "f"})
    first, second = (store.read("images/web/000003.tar") for store in stores)
    assert first == second


def test_a_missing_image_in_a_committed_shard_is_an_error(run_dir):
    write(run_dir, make_batch(), corpus_fingerprints={"web": "f"})
    run_dir.put("images/web/000003.tar", b"\0" * 10240)
    with pytest.raises(ValueError, match="has no image 00000300000"):
        read_corpus_shard(run_dir, corpus_shard("web", 3))


def read_candidates(run_dir):
    return pq.read_table(io.BytesIO(run_dir.read("rounds/2/web/000003.parquet")))


def test_candidates_have_the_columns_of_their_image_and_of_their_models(run_dir):
    write(run_dir, add_candidates(make_batch()), round=2, round_fingerprint="r", provenance=PROVENANCE)
    table = read_candidates(run_dir)
    assert table.schema.equals(CANDIDATE_SCHEMA)
    rows = table.to_pylist()
    assert {
        (r["source"], r["shard"], r["round"], r["filter"], r["threshold"], r["version"]) for r in rows
    } == {("web", 3, 2, "ff", 0.5, 1)}
    of_model = ("origin", "captioner", "top_p", "top_k", "repetition_penalty", "seed")
    assert [tuple(row[name] for name in of_model) for row in rows] == [
        ("web", None, None, None, None, None),
        ("synthetic", "cc", pytest.approx(0.9), 0, 1.0, 5),
        ("synthetic", "cc", pytest.approx(0.9), 0, 1.0, 5),
        ("web", None, None, None, None, None),
        ("synthetic", "cc", pytest.approx(0.9), 0, 1.0, 5),
    ]
    of_image = ("key", "url", "width", "height", "sha256")
    assert [tuple(row[name] for name in of_image) for row in rows[2:4]] == [
        ("00000300000", "http://a/0?x=<b>", 8, 6, "ab" * 32),
        ("00000300002", "http://a/2?x=<b>", 8, 6, "ab" * 32),
    ]


def test_a_row_that_failed_after_it_was_judged_has_no_candidates(run_dir):
    batch = add_candidates(make_batch())
    batch = with_column(batch, "status", ["internal", "http_404", "success"], pa.string())
    write(run_dir, batch, round=2, round_fingerprint="r", provenance=PROVENANCE)
    assert read_candidates(run_dir)["key"].to_pylist() == ["00000300002"] * 2
