"""Captions from elsewhere find their images; the oracle is a loop over dictionaries."""

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.stages.carried.fields import ColumnsError
from capfilt.stages.foreign import join as join_module
from capfilt.stages.foreign import shards as shards_module
from capfilt.stages.foreign.config import CandidatesConfig, CandidatesError
from capfilt.stages.foreign.join import join_captions, read_joined
from capfilt.stages.foreign.pairs import ForeignCaptions
from capfilt.stages.foreign.places import index_places
from capfilt.stages.foreign.shards import read_captions
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.rows import row_key
from capfilt.stages.storage.store import Store
from tests.killing import Killed, kill_at
from tests.runs import walk

ROWS, SHARD = 47, 5


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """An index of 47 rows in shards of 5, three shards to a file of captions; every url is on two rows."""
    for module in (join_module, shards_module):
        monkeypatch.setattr(module, "SHARDS_PER_PART", 3)
    urls = [f"https://host/{i // 2}.jpg" for i in range(ROWS)]
    pq.write_table(pa.table({"url": urls, "uid": list(range(100, 100 + ROWS))}), tmp_path / "m.parquet")
    manifest = ManifestConfig(manifest=str(tmp_path / "m.parquet"), id_column="uid", shard_size=SHARD)
    index_dir = Store(str(tmp_path / "manifests"))
    index = build_index(manifest, index_dir, source="web")

    def places(captions):
        parts = [f"parts/{part.name}" for part in index.parts]
        return index_places(index_dir, parts, captions.config.join, "uid")

    keys = [row_key(*divmod(i, SHARD)) for i in range(ROWS)]
    values = {"url": urls, "uid": [str(100 + i) for i in range(ROWS)], "key": keys}
    return tmp_path, places, keys, values


def write_captions(path, values, seed):
    """Captions for random images, for unknown ones and for none, some without a text; returns
    [(value, text)]."""
    draw = random.Random(seed)
    known = [draw.choice(values) for _ in range(60)]
    pairs = [(value, f"{path.stem} {n}") for n, value in enumerate([*known, "unknown", None, "elsewhere"])]
    pairs[7] = pairs[7][0], None
    draw.shuffle(pairs)
    pq.write_table(pa.table({"k": [v for v, _ in pairs], "t": [t for _, t in pairs]}), path)
    return pairs


def test_every_caption_finds_the_images_of_its_value(scene):
    folder, places, keys, values = scene
    captions, given = [], {}
    for seed, join in enumerate(("url", "uid", "key")):
        given[join] = write_captions(folder / f"{join}.parquet", values[join], seed)
        config = CandidatesConfig(
            files=str(folder / f"{join}.parquet"), join=join, join_column="k", text_column="t"
        )
        captions.append(ForeignCaptions(join, config, "web", "uid"))
    out = Store(str(folder / "captions"))
    joined = join_captions(captions, places, out)
    found = [
        each
        for shard in range(-(-ROWS // SHARD))
        for each in read_captions(out, shard, keys[shard * SHARD : (shard + 1) * SHARD]).to_pylist()
    ]
    for row in range(ROWS):
        expected = [
            {"captioner": join, "text": text}
            for join, pairs in given.items()
            for value, text in pairs
            if value == values[join][row] and text is not None
        ]
        assert found[row] == expected
    lost = [
        (join, value, text)
        for join, pairs in given.items()
        for value, text in pairs
        if value not in values[join] and text is not None
    ]
    unmatched = pq.read_table(folder / "captions/unmatched").to_pylist()
    assert [tuple(row.values()) for row in unmatched] == lost and len(lost) == 9
    for counts in joined.counts.values():
        assert (counts.captions, counts.joined, counts.unmatched, counts.empty) == (62, 59, 3, 1)
    assert read_joined(out) == joined
    assert sorted(p.name for p in (folder / "captions/parts").iterdir()) == [
        part.name for part in joined.parts
    ]  # fmt: skip


def test_a_shard_without_captions_has_none(scene):
    folder, places, keys, _ = scene
    pq.write_table(pa.table({"key": [keys[20]], "caption": ["one"]}), folder / "c.parquet")
    config = CandidatesConfig(files=str(folder / "c.parquet"), join="key")
    out = Store(str(folder / "captions"))
    join_captions([ForeignCaptions("c", config, "web")], places, out)
    assert read_captions(out, 4, keys[20:22]).to_pylist() == [[{"captioner": "c", "text": "one"}], []]
    assert read_captions(out, 3, keys[15:20]).to_pylist() == [[]] * 5  # in the same file
    assert read_captions(out, 9, keys[45:]).to_pylist() == [[]] * 2  # there is no file


def test_ids_may_be_numbers_and_a_row_may_have_several_captions(scene):
    folder, places, keys, _ = scene
    lines = [{"uid": 103, "captions": ["a", "b"]}, {"uid": " 104 ", "captions": "c"}]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = CandidatesConfig(files=str(folder / "c.jsonl"), join="uid")
    out = Store(str(folder / "captions"))
    joined = join_captions([ForeignCaptions("c", config, "web", "uid")], places, out)
    assert joined.counts["c"].joined == 3
    texts = [[each["text"] for each in row] for row in read_captions(out, 0, keys[:5]).to_pylist()]
    assert texts == [[], [], [], ["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"files": "absent.parquet"}, r"candidates\.c\.files: no file at"),
        ({"files": "c.tar"}, r"candidates\.c\.files: .*c\.tar is of format tar; allowed: Parquet, CSV"),
        (
            {"join": "uid"},
            r"candidates\.c\.join_column: no column 'uid' in .*c\.parquet; it has link, said; set",
        ),
        ({"join_column": "link"}, r"candidates\.c\.text_column: no column of texts in .*c\.parquet"),
        ({"join_column": "link", "text_column": "text"}, r"candidates\.c\.text_column: no column 'text' in"),
    ],
)
def test_files_and_columns_that_do_not_exist_are_one_line(tmp_path, monkeypatch, keys, message):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"link": ["u"], "said": ["a"]}), "c.parquet")
    (tmp_path / "c.tar").write_bytes(b"")
    config = CandidatesConfig(**({"files": "c.parquet", "join": "url"} | keys))
    with pytest.raises(CandidatesError, match=message) as caught:
        ForeignCaptions("c", config, "web", "uid").check()
    assert "\n" not in str(caught.value)


def test_ids_and_captions_on_s3(healthy_s3):
    run = Store("s3://bucket/captions", {"endpoint_url": healthy_s3.endpoint})
    urls = [f"{i}.jpg" for i in range(9)]
    for name, columns in {
        "m.parquet": {"url": urls, "uid": [f"u{i}" for i in range(9)]},
        "double.parquet": {"url": urls, "uid": [f"u{i // 2}" for i in range(9)]},
        "c.parquet": {"uid": ["u8", "u0", "u99"], "caption": ["eight", "zero", "lost"]},
    }.items():
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink)
        run.put(name, sink.getvalue())
    options = {"endpoint_url": healthy_s3.endpoint}

    def manifest(file):
        return ManifestConfig(
            manifest=run.address(file), id_column="uid", shard_size=4, storage_options=options
        )

    with pytest.raises(ColumnsError, match="4 ids are on 8 rows, such as 'u0', 'u1', 'u2'"):
        build_index(manifest("double.parquet"), run / "double", source="web")
    assert (run / "double").list("parts") == []
    index = build_index(manifest("m.parquet"), run / "m", source="web")
    config = CandidatesConfig(files=run.address("c.parquet"), join="uid", storage_options=options)
    captions = ForeignCaptions("c", config, "web", "uid")
    captions.check()
    parts = [f"parts/{part.name}" for part in index.parts]
    joined = join_captions([captions], lambda each: index_places(run / "m", parts, "uid", "uid"), run / "c")
    assert joined.counts["c"].unmatched == 1 and len(joined.unmatched) == 1
    (found,) = read_captions(run / "c", 2, [row_key(2, 0)]).to_pylist()
    assert found == [{"captioner": "c", "text": "eight"}]
    assert read_captions(run / "c", 1, [row_key(1, 0)]).to_pylist() == [[]]


@pytest.mark.parametrize("before", [False, True])
def test_a_join_that_is_killed_at_any_step_ends_as_if_nothing_had_happened(scene, monkeypatch, before):
    """The same command joins again; `before`: over the files of another join, as `--fresh join` does."""
    folder, places, _, values = scene
    write_captions(folder / "c.parquet", values["url"], 4)
    write_captions(folder / "old.parquet", values["url"], 5)

    def join(out, name="c"):
        config = CandidatesConfig(
            files=str(folder / f"{name}.parquet"), join="url", join_column="k", text_column="t"
        )
        join_captions([ForeignCaptions("c", config, "web", "uid")], places, out)

    def content(out):
        return {name: out.read(name) for name in walk(out)}

    complete = Store(str(folder / "complete"))
    join(complete)
    step = 0
    while True:
        out = Store(str(folder / f"{step}"))
        if before:
            join(out, "old")
        with monkeypatch.context() as patch:
            done = kill_at(patch, step, Store, ("put", "remove"))
            try:
                join(out)
            except Killed:
                pass
            else:
                break
        assert len(done) == step
        assert before or read_joined(out) is None, "the record is written last"
        join(out)
        assert content(out) == content(complete)
        step += 1
    assert step == 2 + len(walk(complete))
