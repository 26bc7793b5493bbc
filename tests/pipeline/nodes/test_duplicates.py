"""Which copies of a picture survive, in every order, and what the others' candidates are told. Expected by hand."""

import hashlib
import io
import itertools
import shutil
from types import SimpleNamespace

import duckdb
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.console.signals import NodeStopped
from capfilt.pipeline.nodes import duplicates
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.duplicates import (
    count_copies,
    ensure_counted,
    mark_round,
    most_copied_images,
    surplus_texts,
)
from capfilt.pipeline.plan import plan
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.stages.bootstrap.duplicates import Copies
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, ReadPairs
from capfilt.stages.rows import CANDIDATE_SCHEMA, ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.commit import corpus_record, count_verdicts
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.records import CandidatesRecord, RowCounts, encode
from capfilt.stages.shards.write import Write, WriteConfig, corpus_files, parquet_bytes
from capfilt.stages.storage.layout import DUPLICATES
from capfilt.stages.storage.store import Store
from tests.runs import walk, writable

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
TELLING, OTHER, FLAT = "00000000ffffffff", "ffffffff00000000", "8" + "0" * 15

# shard → (sha256, phash) per row; web2 comes after web, whatever is fetched first.
CORPUS = {
    ("web", 0): [(A, TELLING), (B, OTHER), (A, TELLING), (None, None)],
    ("web", 1): [(A, TELLING), (C, TELLING), (D, FLAT), (D, FLAT)],
    ("web2", 0): [(A, TELLING), (D, FLAT), ("e" * 64, FLAT), ("f" * 64, FLAT)],
}
# Of A the first two survive: web/0/0, web/0/2. Of TELLING (A and C) the same two, so C is surplus as well.
# Of D the first two: web/1/2, web/1/3. FLAT tells nothing. Of the url below the first two that came.
SURPLUS = {("web", 1): [0, 1], ("web2", 0): [0, 1, 3]}


# Rows of one url, which gave other pictures; the last is surplus.
URLS = {
    ("web", 0, 1): "random?é",
    ("web", 0, 3): "random?é",
    ("web", 1, 2): "random?é",
    ("web2", 0, 3): "random?é",
}


def config_of(folder, **duplicates):
    source = {"kind": "web", "rows": {"manifest": "m.csv"}}
    return parse_config(
        {
            "run": {"dir": str(folder)},
            "sources": {"web": source, "web2": source, "clean": {**source, "kind": "human"}},
            "captioner": {"checkpoint": "c"},
            "filter": {"checkpoint": "f"},
            "duplicates": {"max_copies": 2, **duplicates},
        },
        "test",
    )


def run_of(config):
    return RunContext(writable(config), progress=None, board=None, stop=SimpleNamespace(requested=False))


def url_of(source, shard, row):
    return f"http://a/{URLS.get((source, shard, row), f'{source}/{shard}/{row}')}"


def write_corpus(store, source, shard):
    rows = [
        {
            "key": row_key(shard, i),
            "source": source,
            "shard": shard,
            "url": url_of(source, shard, i),
            "caption": "t",
            "texts": ["t", "another", " "],
            "status": "success" if sha else "dns",
            "sha256": sha,
            "phash": phash,
            "image": b"\xff\xd8\xff" if sha else None,
        }
        for i, (sha, phash) in enumerate(CORPUS[source, shard])
    ]
    batch = table_of(rows, ROW_SCHEMA)
    folder = store / f"corpus/{source}"
    files = [folder.put(f"{shard:06d}.{ending}", data) for ending, data in corpus_files(Pack()(batch))]
    folder.create(f"{shard:06d}.json", b"")
    folder.put(f"{shard:06d}.json", encode(corpus_record(batch, "f", files)))


def write_candidates(store, source, shard):
    rows = []
    for i, (sha, phash) in enumerate(CORPUS[source, shard]):
        for origin, p in (("web", 0.25), ("synthetic", 0.75)) if sha else ():
            image = {
                "key": row_key(shard, i),
                "source": source,
                "shard": shard,
                "url": url_of(source, shard, i),
                "sha256": sha,
                "phash": phash,
            }
            verdict = {
                "itm_prob": p,
                "kept": p >= 0.5,
                "flags": ["degenerate"],
                "origin": origin,
                "text": "t",
            }
            rows.append(image | verdict | {"round": 1, "threshold": 0.5, "caption_index": 0})
    folder = store / f"rounds/1/{source}"
    file = folder.put(f"{shard:06d}.parquet", parquet_bytes(table_of(rows, CANDIDATE_SCHEMA)))
    record = CandidatesRecord(
        source=source,
        shard=shard,
        round=1,
        fingerprint="f",
        files=(file,),
        rows=RowCounts(read=0, status={}),
        candidates=count_verdicts(rows),
    )
    folder.put(f"{shard:06d}.json", encode(record))


def fill(folder, shards):
    store = Store(str(folder))
    for source, shard in shards:
        write_corpus(store, source, shard)
        write_candidates(store, source, shard)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled")
    fill(folder, CORPUS)
    return folder


@pytest.fixture
def made(filled, tmp_path):
    """A run with its corpus and candidates, not marked."""
    shutil.copytree(filled, tmp_path / "run")
    return run_of(config_of(tmp_path / "run"))


def flagged(run):
    rows = duckdb.sql(
        f"SELECT DISTINCT source, shard, key FROM '{run.config.run.dir}/rounds/1/*/*.parquet' "
        "WHERE list_contains(flags, 'duplicate_image')"
    ).fetchall()
    return sorted(rows)


EXPECTED = sorted((s, n, row_key(n, i)) for (s, n), rows in SURPLUS.items() for i in rows)


@pytest.mark.parametrize("order", [1, -1])
def test_the_first_copies_survive_whatever_was_fetched_first(tmp_path, order):
    fill(tmp_path, list(CORPUS)[::order])
    made = run_of(config_of(tmp_path))
    assert mark_round(made, made.run_dir.nodes["bootstrap.1"], fetched=True) == 2
    assert flagged(made) == EXPECTED
    pictures = pq.read_table(made.store.path(DUPLICATES)).to_pylist()
    assert [(p["kind"], p["hash"], p["copies"], p["first"], p["last"]) for p in pictures] == [
        ("perceptual", TELLING, 5, "web/00000000000", "web/00000000002"),
        ("exact", A[:32], 4, "web/00000000000", "web/00000000002"),
        ("exact", D[:32], 3, "web/00000100002", "web/00000100003"),
        (
            "url",
            hashlib.md5("http://a/random?é".encode()).hexdigest(),
            3,
            "web/00000000001",
            "web/00000100002",
        ),
    ]
    assert surplus_texts(made.store) == {("web", 1): 4, ("web2", 0): 6}  # blank texts train nobody


def test_the_report_lists_a_picture_once(made):
    count_copies(made.run_dir)
    assert most_copied_images(made.config, made.store) == [
        {"kind": "perceptual", "copies": 5, "source": "web", "key": "00000000000", "surplus": 3},
        {"kind": "exact", "copies": 3, "source": "web", "key": "00000100002", "surplus": 1},
        {"kind": "url", "copies": 3, "source": "web", "key": "00000000001", "surplus": 1},
    ]
    assert most_copied_images(config_of(made.config.run.dir, policy="keep"), made.store) == []


def test_pictures_within_the_limit_are_listed_and_survive(made):
    config = config_of(made.config.run.dir, max_copies=50)
    count_copies(writable(config))
    assert [p["copies"] for p in most_copied_images(config, made.store)] == [5, 3, 3]
    assert surplus_texts(made.store) == {}


def test_dropped_copies_have_scores_and_no_verdict_and_the_ratio_is_that_of_the_others(made):
    mark_round(made, made.run_dir.nodes["bootstrap.1"], fetched=True)
    glob = f"{made.config.run.dir}/rounds/1/*/*.parquet"
    rows = duckdb.sql(
        f"SELECT DISTINCT kept, itm_prob, flags FROM '{glob}' WHERE key = '00000100000' AND source = 'web' ORDER BY 2"
    ).fetchall()
    assert rows == [(None, p, ["degenerate", "duplicate_image"]) for p in (0.25, 0.75)]
    ratios = dict(duckdb.sql(f"SELECT origin, 1-avg(kept::int) FROM '{glob}' GROUP BY 1").fetchall())
    assert ratios == {"web": 1.0, "synthetic": 0.0}
    record = made.store.read_json("rounds/1/web/000001.json")
    assert record["candidates"] == {
        "synthetic": {"unjudged": 2, "kept": 2},
        "web": {"unjudged": 2, "dropped": 2},
    }
    assert record["duplicates"] == 4
    assert record["files"][0]["bytes"] == len(made.store.read("rounds/1/web/000001.parquet"))


def test_flag_leaves_the_verdicts_and_keep_looks_for_nothing(made):
    flag = run_of(config_of(made.config.run.dir, policy="flag"))
    assert mark_round(flag, flag.run_dir.nodes["bootstrap.1"], fetched=True) == 2
    assert flagged(flag) == EXPECTED
    glob = f"{made.config.run.dir}/rounds/1/*/*.parquet"
    assert duckdb.sql(f"SELECT count(*) FROM '{glob}' WHERE kept IS NULL").fetchone() == (0,)
    keep = run_of(config_of(made.config.run.dir, policy="keep"))
    keep.store.remove(DUPLICATES)
    assert mark_round(keep, keep.run_dir.nodes["bootstrap.1"], fetched=True) == 0
    assert not keep.store.exists(DUPLICATES)


def test_without_perceptual_hashes_bytes_decide(made):
    run = run_of(config_of(made.config.run.dir, perceptual=False))
    mark_round(run, run.run_dir.nodes["bootstrap.1"], fetched=True)
    assert ("web", 1, "00000100001") not in flagged(run) and len(flagged(run)) == 4


def test_marking_again_changes_nothing_and_a_changed_corpus_gives_verdicts_back(made):
    node = made.run_dir.nodes["bootstrap.1"]
    before = {name: made.store.read(name) for name in walk(made.store, "rounds")}
    mark_round(made, node, fetched=True)
    marked = {name: made.store.read(name) for name in walk(made.store, "rounds")}
    assert mark_round(made, node, fetched=True) == 0
    assert {name: made.store.read(name) for name in walk(made.store, "rounds")} == marked
    made.store.remove(
        "corpus/web/000000.json"
    )  # fewer copies now: C is the second of its kind, web2's A is over, the url comes twice
    assert mark_round(made, node, fetched=True) == 2
    assert flagged(made) == [("web2", 0, "00000000000"), ("web2", 0, "00000000001")]
    name = "rounds/1/web/000001.parquet"
    assert pq.read_table(io.BytesIO(made.store.read(name))).equals(pq.read_table(io.BytesIO(before[name])))


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", range(4))
def test_a_shard_that_is_being_marked_counts_as_it_was_or_not_or_marked(made, at, monkeypatch):
    steps = []

    def breaking(name):
        original = getattr(Store, name)

        def call(self, place, *args):
            if "rounds/" in self.path(place):
                if len(steps) == at:
                    raise Killed
                steps.append(name)
            return original(self, place, *args)

        return call

    monkeypatch.setattr(duplicates, "THREADS", 1)
    count_copies(made.run_dir)
    with monkeypatch.context() as patched:
        for name in ("remove", "put", "create"):
            patched.setattr(Store, name, breaking(name))
        with pytest.raises(Killed):
            mark_round(made, made.run_dir.nodes["bootstrap.1"], fetched=False)
    for source, shard in CORPUS:
        name = f"rounds/1/{source}/{shard:06d}"
        if made.store.exists(f"{name}.json"):
            rows = pq.read_table(io.BytesIO(made.store.read(f"{name}.parquet"))).to_pylist()
            assert count_verdicts(rows) == made.store.read_json(f"{name}.json")["candidates"]
        else:
            write_candidates(made.store, source, shard)  # the bootstrap judges it again
    mark_round(made, made.run_dir.nodes["bootstrap.1"], fetched=False)
    assert flagged(made) == EXPECTED


def test_a_run_that_is_to_stop_marks_no_further_shard(made):
    made.stop.requested = True
    with pytest.raises(NodeStopped, match="not marked yet"):
        mark_round(made, made.run_dir.nodes["bootstrap.1"], fetched=True)
    assert flagged(made) == []


def test_counting_is_done_again_only_for_other_settings(made):
    count_copies(made.run_dir)
    made.store.remove("corpus/web/000000.json")
    before = made.store.read(DUPLICATES)
    ensure_counted(made.run_dir)
    assert made.store.read(DUPLICATES) == before
    ensure_counted(writable(config_of(made.config.run.dir, max_copies=3)))
    assert made.store.read(DUPLICATES) != before


def test_a_pretraining_on_texts_as_they_came_sees_no_surplus_copy(made):
    count_copies(made.run_dir)
    ref = ShardRef("web", 1, "web")
    every = ReadPairs(PairsConfig(run_dir=made.store)).read(ref)["key"].to_pylist()
    left = ReadPairs(PairsConfig(run_dir=made.store, without_surplus=True)).read(ref)["key"].to_pylist()
    assert every == [row_key(1, i) for i in range(4)] and left == [row_key(1, 2), row_key(1, 3)]


def test_a_late_attempt_does_not_write_over_marked_candidates(made):
    mark_round(made, made.run_dir.nodes["bootstrap.1"], fetched=True)
    name = "rounds/1/web/000001"
    before = made.store.read(f"{name}.parquet")
    batch = table_of([{"source": "web", "shard": 1, "key": "x"}], ROW_SCHEMA)
    Write(WriteConfig(run_dir=made.store, round=1, round_fingerprint="f"))(batch)
    assert made.store.read(f"{name}.parquet") == before


def test_policy_and_limits_are_inputs_of_verdicts_and_not_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(Fingerprints, "checkpoint", lambda self, role: "digest")
    prints = {p: Fingerprints(c := config_of(tmp_path, policy=p), plan(c)) for p in ("keep", "flag", "drop")}
    for one, other in itertools.combinations(prints.values(), 2):
        assert one.of("bootstrap.1") != other.of("bootstrap.1")
        assert one.corpus("web") == other.corpus("web")


def test_lookup():
    exact = {"kind": "exact", "hash": A[:32], "last": "web/00000000005"}
    copies = Copies([exact, {"kind": "perceptual", "hash": TELLING, "last": None}])
    row = {"source": "web", "key": "00000000005", "sha256": A, "phash": TELLING, "url": None}
    assert not copies.is_surplus(row)
    assert copies.is_surplus(row | {"key": "00000000006"}) and copies.is_surplus(
        row | {"source": "web2", "key": "0"}
    )
    assert not copies.is_surplus(row | {"key": "9", "sha256": None, "phash": None})
