"""Columns that a run carries from a manifest into corpus and candidates; the oracle is the manifest."""

import hashlib
import io
import json
import tarfile

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.stages.carried.fields import ColumnsError
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index, check_manifest, read_index
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.retry import ReadFailed, RetryConfig, StageRetried
from capfilt.stages.storage.store import Store
from tests.stages.carried.laion import CARRIED, RENAMED, SCHEMA, laion_table, png, run_stages, write_images

SECTION = "sources.web.rows"
ROWS = 7


@pytest.fixture(scope="module")
def laion(tmp_path_factory):
    """A LAION-shaped manifest in two files, carried through the stages: (folder, corpus, candidates)."""
    folder = tmp_path_factory.mktemp("laion")
    table = laion_table(ROWS)
    pq.write_table(table.slice(0, 4), folder / "a.parquet", row_group_size=3)
    # The second file has other types, which hold the same values.
    columns = {
        "WIDTH": pa.int16(),
        "similarity": pa.float32(),
        "LICENSE": pa.dictionary(pa.int8(), pa.string()),
    }
    other = table.slice(4)
    for name, type_ in columns.items():
        column = other[name].dictionary_encode() if name == "LICENSE" else other[name].cast(type_)
        other = other.set_column(other.schema.names.index(name), name, column)
    pq.write_table(other, folder / "b.parquet")
    write_images(folder / "images", ROWS - 1)  # the last row has no image
    manifest = ManifestConfig(
        manifest=str(folder / "*.parquet"), keep_columns="all", rename_columns=RENAMED, shard_size=2
    )
    return folder, *run_stages(folder / "run", manifest, folder / "images")


def expected_columns():
    table = laion_table(ROWS)
    late = table["similarity"].slice(4).cast(pa.float32()).cast(pa.float64())
    similarity = pa.chunked_array([*table["similarity"].slice(0, 4).chunks, *late.chunks])
    table = table.set_column(SCHEMA.names.index("similarity"), SCHEMA.field("similarity"), similarity)
    return table.select(SCHEMA.names[2:]).rename_columns(CARRIED)


def test_every_column_of_laion_is_in_the_corpus_with_its_type(laion):
    _, corpus, _ = laion
    assert corpus.column_names == [*CORPUS_SCHEMA.names, *CARRIED]
    assert corpus.select(CORPUS_SCHEMA.names).schema.equals(CORPUS_SCHEMA)
    found, wanted = corpus.select(CARRIED), expected_columns()
    assert [(f.name, f.type) for f in found.schema] == [(f.name, f.type) for f in wanted.schema]
    pd.testing.assert_frame_equal(found.to_pandas(), wanted.to_pandas())
    assert found["similarity"].null_count == wanted["similarity"].null_count  # NaN is no null


def test_candidates_have_the_columns_of_their_image(laion):
    _, corpus, candidates = laion
    assert candidates.column_names == [*CANDIDATE_SCHEMA.names, *CARRIED]
    assert candidates.num_rows == ROWS - 1
    stored = corpus.filter(pa.compute.equal(corpus["status"], "success")).select(CARRIED)
    pd.testing.assert_frame_equal(candidates.select(CARRIED).to_pandas(), stored.to_pandas())


def test_folders_are_one_table_for_pandas_and_duckdb(laion):
    folder, corpus, _ = laion
    assert len(pd.read_parquet(folder / "run/corpus/web")) == corpus.num_rows
    ratios = duckdb.sql(
        f"SELECT LICENSE, avg((NOT kept)::INT) FROM '{folder}/run/rounds/1/**/*.parquet' GROUP BY ALL"
    ).fetchall()
    assert sorted(ratios) == [("?", 0.0), ("cc-by", 0.0)]


def test_sidecars_of_stored_images_have_the_columns(laion):
    folder, corpus, _ = laion
    row = corpus.slice(1, 1).to_pylist()[0]
    with tarfile.open(folder / "run/images/web/000000.tar") as tar:
        sidecar = json.load(tar.extractfile(f"{row['key']}.json"))
    assert {name: sidecar[name] for name in ("laion_key", "hash", "tags", "laion_WIDTH")} == {
        "laion_key": "000000001", "hash": -(2**62 + 1), "tags": ["a", "t1"], "laion_WIDTH": 101
    }  # fmt: skip
    assert sidecar["seen"].startswith("2023-11-14 22:13:20.123456790")


def test_a_clash_is_one_line_with_the_names_to_add(tmp_path):
    pq.write_table(laion_table(2), tmp_path / "a.parquet")
    manifest = ManifestConfig(manifest=str(tmp_path / "a.parquet"), keep_columns="all")
    with pytest.raises(ColumnsError) as caught:
        check_manifest(manifest, SECTION)
    line = str(caught.value)
    assert "WIDTH, HEIGHT, key, status" in line and "\n" not in line
    given = line.partition("rename_columns: {")[2].partition("}")[0]
    renamed = dict(pair.split(": ") for pair in given.split(", "))
    check_manifest(
        ManifestConfig(manifest=str(tmp_path / "a.parquet"), keep_columns="all", rename_columns=renamed),
        SECTION,
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"keep_columns": ("nsfw",)}, r"keep_columns: no column 'nsfw'; the manifest has URL, TEXT, WIDTH"),
        ({"keep_columns": "TEXT"}, r"TEXT: capfilt has columns.*leave out TEXT \(read as the caption\)"),
        ({"keep_columns": "similarity", "rename_columns": {"hash": "h"}}, "'hash' is not carried; add it"),
        (
            {"keep_columns": ("similarity", "hash"), "rename_columns": {"hash": "SIMILARITY"}},
            "'similarity' and 'hash' would both be called 'SIMILARITY'",
        ),
        (
            {"keep_columns": "hash", "column_types": {"hash": "number"}},
            "'number' is no type; allowed: string",
        ),
        ({"column_types": {"hash": "int8"}}, "column_types: 'hash' is not carried; carried are no columns"),
        ({"id_column": "uid"}, r"id_column: no column 'uid'"),
        ({"hash_column": "hash"}, "'hash' is of type int64, and a hash of bytes is text of 64"),
        ({"hash_column": "LICENSE"}, r"'LICENSE' has 'cc-by', neither a sha256"),
        ({"synthetic_columns": {"recap": "re_caption"}}, r"synthetic_columns\.recap: no column 're_caption'"),
    ],
)
def test_keys_that_do_not_fit_the_manifest_are_one_line(tmp_path, keys, message):
    pq.write_table(laion_table(3), tmp_path / "a.parquet")
    with pytest.raises(ColumnsError, match=message) as caught:
        check_manifest(ManifestConfig(manifest=str(tmp_path / "a.parquet"), **keys), SECTION)
    assert str(caught.value).startswith(SECTION) and "\n" not in str(caught.value)


def test_types_of_files_that_no_type_holds_are_refused_and_a_declared_type_holds_them(tmp_path):
    pq.write_table(pa.table({"url": ["a"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"url": ["b"], "n": ["x"]}), tmp_path / "b.parquet")
    manifest = ManifestConfig(manifest=str(tmp_path / "*.parquet"), keep_columns="n")
    with pytest.raises(ColumnsError, match=r"column 'n' is int64 in .*a\.parquet and string in .*b\.parquet"):
        build_index(manifest, Store(str(tmp_path / "index")), source="web")
    declared = ManifestConfig(
        manifest=str(tmp_path / "*.parquet"), keep_columns="n", column_types={"n": "string"}
    )
    build_index(declared, Store(str(tmp_path / "index")), source="web")
    (part,) = (tmp_path / "index/parts").iterdir()
    assert pq.read_table(part)["carried"].to_pylist() == [{"n": "1"}, {"n": "x"}]


TEXT_FILES = {
    "a.csv": "url,n,s\n0.png,1,x\n1.png,,y\n2.png,4.5,\n",
    "a.jsonl": '{"url": "0.png", "n": 1, "s": "x"}\n{"url": "1.png", "s": "y"}\n'
    '{"url": "2.png", "n": 4.5, "s": {"k": [1]}}\n',
}


@pytest.mark.parametrize(
    ("file", "types", "n", "s"),
    [
        ("a.csv", {}, ["1", "", "4.5"], ["x", "y", ""]),
        ("a.csv", {"n": "float64"}, [1.0, None, 4.5], ["x", "y", ""]),
        ("a.csv", {"n": "int64"}, [1, None, None], ["x", "y", ""]),
        ("a.jsonl", {}, [1.0, None, 4.5], ["x", "y", '{"k": [1]}']),
        ("a.jsonl", {"n": "int16"}, [1, None, None], ["x", "y", '{"k": [1]}']),
    ],
)
def test_text_formats_have_texts_or_types_of_samples_and_what_does_not_fit_is_counted(
    tmp_path, file, types, n, s
):
    (tmp_path / file).write_text(TEXT_FILES[file])
    write_images(tmp_path / "images", 3)
    manifest = ManifestConfig(manifest=str(tmp_path / file), keep_columns=("n", "s"), column_types=types)
    corpus, _ = run_stages(tmp_path / "run", manifest, tmp_path / "images")
    assert corpus["n"].to_pylist() == n and corpus["s"].to_pylist() == s
    index = read_index(Store(str(tmp_path / "run/manifests/web")))
    misfits = 1 if types.get("n", "").startswith("int") else 0
    assert (index.unfit or {}) == ({"n": misfits} if misfits else {})


def test_ids_that_are_missing_or_double_are_found_and_nothing_is_left(tmp_path):
    ids = ["a", "b", "a", None, "c", " ", "c", "c"]
    pq.write_table(pa.table({"url": [f"{i}" for i in range(8)], "uid": ids}), tmp_path / "a.parquet")
    manifest = ManifestConfig(manifest=str(tmp_path / "a.parquet"), id_column="uid", shard_size=3)
    store = Store(str(tmp_path / "index"))
    with pytest.raises(ColumnsError, match="2 ids are on 5 rows, such as 'a', 'c'; 2 rows have none"):
        build_index(manifest, store, source="web")
    assert store.list() == [] or not [*(tmp_path / "index").rglob("*.parquet")]
    pq.write_table(pa.table({"url": ["a", "b"], "uid": [7, 8]}), tmp_path / "a.parquet")
    assert build_index(manifest, store, source="web").rows == 2


def test_another_image_than_promised_ends_as_hash_mismatch(tmp_path):
    write_images(tmp_path / "images", 5)
    right = hashlib.sha256(png(0)).hexdigest(), hashlib.md5(png(1)).hexdigest()
    hashes = [right[0].upper(), right[1], "0" * 64, "not a hash", None]
    table = pa.table({"url": [f"{i}.png" for i in range(5)], "sha256": hashes})
    pq.write_table(table, tmp_path / "a.parquet")
    manifest = ManifestConfig(manifest=str(tmp_path / "a.parquet"), hash_column="sha256")
    corpus, _ = run_stages(tmp_path / "run", manifest, tmp_path / "images")
    assert corpus["status"].to_pylist() == ["success", "success", *["hash_mismatch"] * 2, "success"]
    assert corpus["expected_hash"].to_pylist() == [h and h.lower() for h in hashes]
    found = hashlib.sha256(png(2)).hexdigest()
    assert corpus["sha256"][2].as_py() == found
    assert corpus["error_message"][2].as_py() == f"the sha256 is {found}, promised was '{'0' * 64}'"
    assert "neither a sha256" in corpus["error_message"][3].as_py()


def test_sidecars_of_tars_give_the_columns(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(4):
            meta = {
                "uid": f"u{i}",
                "score": i / 2,
                "sha256": hashlib.sha256(png(i)).hexdigest(),
                "key": f"{i}",
            }
            meta |= {"score": "none"} if i == 2 else {}
            for suffix, data in (("png", png(i)), ("txt", b"text"), ("json", json.dumps(meta).encode())):
                member = tarfile.TarInfo(f"{i}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    manifest = ManifestConfig(
        manifest=str(tmp_path / "a.tar"),
        keep_columns=("score", "key"),
        rename_columns={"key": "old_key"},
        column_types={"score": "float32"},
        id_column="UID",
        hash_column="sha256",
        synthetic_columns={"recap": "uid"},
    )
    corpus, _ = run_stages(tmp_path / "run", manifest, tmp_path)
    assert set(corpus["status"].to_pylist()) == {"success"}
    assert corpus.column_names[len(CORPUS_SCHEMA) :] == [
        "expected_hash",
        "synthetic",
        "score",
        "old_key",
        "uid",
    ]
    assert corpus["score"].type == pa.float32() and corpus["score"].to_pylist() == [0.0, 0.5, None, 1.5]
    assert corpus["uid"].to_pylist() == [f"u{i}" for i in range(4)]
    assert corpus["old_key"].to_pylist() == [str(i) for i in range(4)]
    record = json.loads((tmp_path / "run/records/corpus/web/000000.json").read_text())
    assert record["unfit"] == {"score": 1}
    assert corpus["synthetic"].to_pylist()[3] == [{"captioner": "recap", "text": "u3"}]


def test_without_the_keys_the_index_is_as_before(tmp_path):
    pq.write_table(laion_table(3), tmp_path / "a.parquet")
    build_index(ManifestConfig(manifest=str(tmp_path / "a.parquet")), Store(str(tmp_path / "i")), source="w")
    names = pq.read_schema(tmp_path / "i/parts/00000.parquet").names
    assert names == ["url", "texts", "truth", "tar", "image_file", "image_column", "image_row"]
    assert "unfit" not in json.loads((tmp_path / "i/index.json").read_text())


def test_later_rounds_and_retries_have_the_columns_of_the_corpus(tmp_path):
    write_images(tmp_path / "images", 2)
    (tmp_path / "images/1.png").rename(tmp_path / "1.png")
    promised = [hashlib.sha256(png(i)).hexdigest() for i in range(2)]
    table = laion_table(2).select(["URL", "TEXT", "seen", "LICENSE"]).append_column("sha256", [promised])
    pq.write_table(table, tmp_path / "a.parquet")
    manifest = ManifestConfig(
        manifest=str(tmp_path / "a.parquet"),
        keep_columns="all",
        hash_column="sha256",
        synthetic_columns={"recap": "LICENSE"},
    )
    run_stages(tmp_path / "run", manifest, tmp_path / "images")
    store = Store(str(tmp_path / "run"))
    item = pa.table({"source": ["web"], "shard": [0]})
    rows = Read(ReadConfig(run_dir=store))(item)
    assert rows["status"].to_pylist() == ["success", "missing_file"]
    assert rows["carried"].type == pa.struct([("seen", SCHEMA.field("seen").type)])
    (tmp_path / "1.png").rename(tmp_path / "images/1.png")
    retry = RetryConfig(run_dir=store, classes=("missing_file",))
    fetched = Fetch(FetchConfig(image_root=str(tmp_path / "images")))(ReadFailed(retry)(item))
    assert fetched.select(rows.column_names).schema == rows.schema
    StageRetried(retry)(fetched)
    (staged,) = (tmp_path / "run/replacing/web").glob("*.parquet")
    after = pq.read_table(staged)
    assert after["status"].to_pylist() == ["success", "success"]
    assert after["seen"].equals(table["seen"]) and after["expected_hash"].to_pylist() == promised
    assert after["synthetic"].to_pylist() == [
        [{"captioner": "recap", "text": text}] for text in ("cc-by", "?")
    ]  # fmt: skip


def test_a_column_that_is_not_carried_may_differ_between_files(tmp_path):
    pq.write_table(pa.table({"url": ["a"], "n": [1], "x": [1.5]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"url": ["b"], "n": ["x"]}), tmp_path / "b.parquet")
    manifest = ManifestConfig(manifest=str(tmp_path / "*.parquet"), keep_columns=("X",))
    build_index(manifest, Store(str(tmp_path / "index")), source="web")
    assert pq.read_table(tmp_path / "index/parts")["carried"].to_pylist() == [{"x": 1.5}, {"x": None}]


def test_embedded_images_are_never_carried(tmp_path):
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(2)]
    pq.write_table(pa.table({"image": images, "caption": ["a", "b"], "n": [1, 2]}), tmp_path / "a.parquet")
    file = str(tmp_path / "a.parquet")
    with pytest.raises(ColumnsError, match="'image' holds the images"):
        check_manifest(ManifestConfig(manifest=file, keep_columns=("image",)), SECTION)
    manifest = ManifestConfig(manifest=file, keep_columns="all", shard_size=1)
    corpus, _ = run_stages(tmp_path / "run", manifest, tmp_path)
    assert corpus.column_names[len(CORPUS_SCHEMA) :] == ["n"] and corpus["n"].to_pylist() == [1, 2]
    assert set(corpus["status"].to_pylist()) == {"success"}


def test_columns_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("capfilt.stages.manifest.cut.PART_LIMIT", 20_000)
    vectors = [[(i * 7919 % 997) / 997] * 64 + [float(j) / (i + 1) for j in range(64)] for i in range(200)]
    table = pa.table({"url": [f"{i}" for i in range(200)], "n": list(range(200)), "vector": vectors})
    pq.write_table(table, tmp_path / "a.parquet")
    file = str(tmp_path / "a.parquet")
    build_index(
        ManifestConfig(manifest=file, keep_columns="n", shard_size=10), Store(str(tmp_path / "i")), source="w"
    )
    with pytest.raises(ColumnsError, match="leave out the widest, 'vector', or set a smaller"):
        build_index(
            ManifestConfig(manifest=file, keep_columns="all", shard_size=10),
            Store(str(tmp_path / "j")),
            source="w",
        )
