"""Which copies of an image are surplus, whatever the order, and how their candidates are marked.

Expected values are worked out by hand.
"""

import hashlib
import io
import itertools
import shutil
import sys
from types import SimpleNamespace

import duckdb
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.console.progress import Progress
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
from capfilt.stages.bootstrap.duplicates import DUPLICATES_SCHEMA, SurplusCopies
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, ReadPairs
from capfilt.stages.rows import CANDIDATE_SCHEMA, ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.commit import count_verdicts, make_corpus_record
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.records import CandidatesRecord, RowCounts, encode
from capfilt.stages.shards.write import Write, WriteConfig, encode_corpus_files, encode_parquet
from capfilt.stages.storage.layout import DUPLICATES, SURPLUS
from capfilt.stages.storage.store import Store
from tests.killing import Killed, kill_at
from tests.runs import walk, writable

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
PHASH, OTHER_PHASH, FLAT = "00000000ffffffff", "ffffffff00000000", "8" + "0" * 15
"""Perceptual hashes; FLAT has too few set bits to identify an image."""

# Shard → (sha256, phash) of each row. The source web2 comes after web, whichever is fetched first.
CORPUS = {
    ("web", 0): [(A, PHASH), (B, OTHER_PHASH), (A, PHASH), (None, None)],
    ("web", 1): [(A, PHASH), (C, PHASH), (D, FLAT), (D, FLAT)],
    ("web2", 0): [(A, PHASH), (D, FLAT), ("e" * 64, FLAT), ("f" * 64, FLAT)],
}
# With max_copies 2, the first two copies of A are kept: web/0/0 and web/0/2. PHASH (A and C) has the same
# first two, so C is surplus too. The first two copies of D are web/1/2 and web/1/3. FLAT identifies nothing.
# Of the url below, the third image is surplus: web/1/2 is kept, web2/0/3 is not.
SURPLUS_ROWS = {("web", 1): [0, 1], ("web2", 0): [0, 1, 3]}

# Rows whose url is the same, although it gave other images.
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


def context_of(config):
    progress, stop = Progress(Console(quiet=True)), SimpleNamespace(requested=False)
    return RunContext(writable(config), progress=progress, board=None, stop=stop)


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
    files = [folder.put(f"{shard:06d}.{ending}", data) for ending, data in encode_corpus_files(Pack()(batch))]
    folder.create(f"{shard:06d}.json", b"")
    folder.put(f"{shard:06d}.json", encode(make_corpus_record(batch, "f", files)))


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
    file = folder.put(f"{shard:06d}.parquet", encode_parquet(table_of(rows, CANDIDATE_SCHEMA)))
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


def write_shards(folder, shards):
    store = Store(str(folder))
    for source, shard in shards:
        write_corpus(store, source, shard)
        write_candidates(store, source, shard)


@pytest.fixture(scope="module")
def unmarked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unmarked")
    write_shards(folder, CORPUS)
    return folder


@pytest.fixture
def context(unmarked, tmp_path):
    """A run with its corpus and candidates, which are not marked."""
    shutil.copytree(unmarked, tmp_path / "run")
    return context_of(config_of(tmp_path / "run"))


def mark(context, *, fetched=True):
    """Mark the candidates of the first round."""
    return mark_round(context, context.run_dir.nodes["bootstrap.1"], fetched=fetched)


def marked_rows(context):
    """(source, shard, key) of the images with a marked candidate."""
    rows = duckdb.sql(
        f"SELECT DISTINCT source, shard, key FROM '{context.config.run.dir}/rounds/1/*/*.parquet' "
        "WHERE list_contains(flags, 'duplicate_image')"
    ).fetchall()
    return sorted(rows)


EXPECTED = sorted((s, n, row_key(n, i)) for (s, n), rows in SURPLUS_ROWS.items() for i in rows)


@pytest.mark.parametrize("order", [1, -1])
def test_first_copies_are_kept_whatever_was_fetched_first(tmp_path, order):
    write_shards(tmp_path, list(CORPUS)[::order])
    context = context_of(config_of(tmp_path))
    assert mark(context) == 2
    assert marked_rows(context) == EXPECTED
    images = pq.read_table(context.store.path(DUPLICATES)).to_pylist()
    assert [(each["kind"], each["hash"], each["copies"], each["first"], each["last"]) for each in images] == [
        ("perceptual", PHASH, 5, "web/00000000000", "web/00000000002"),
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
    assert surplus_texts(context.store) == {("web", 1): 4, ("web2", 0): 6}  # blank texts do not count


def test_report_lists_an_image_once(context):
    count_copies(context.run_dir)
    assert most_copied_images(context.config, context.store) == [
        {"kind": "perceptual", "copies": 5, "source": "web", "key": "00000000000", "surplus": 3},
        {"kind": "exact", "copies": 3, "source": "web", "key": "00000100002", "surplus": 1},
        {"kind": "url", "copies": 3, "source": "web", "key": "00000000001", "surplus": 1},
    ]
    assert most_copied_images(config_of(context.config.run.dir, policy="keep"), context.store) == []


def test_images_within_the_limit_are_listed_and_kept(context):
    config = config_of(context.config.run.dir, max_copies=50)
    count_copies(writable(config))
    assert [image["copies"] for image in most_copied_images(config, context.store)] == [5, 3, 3]
    assert surplus_texts(context.store) == {}


@pytest.mark.parametrize("listed", [0, 1, 3])
def test_number_of_listed_images_is_limited_only_below_the_limit_of_copies(context, monkeypatch, listed):
    monkeypatch.setattr(duplicates, "LISTED_BELOW_LIMIT", listed)
    count_copies(context.run_dir)
    assert pq.read_table(context.store.path(DUPLICATES))["copies"].to_pylist() == [5, 4, 3, 3]
    for max_copies in (5, 50):
        count_copies(writable(config_of(context.config.run.dir, max_copies=max_copies)))
        assert pq.read_table(context.store.path(DUPLICATES))["copies"].to_pylist() == [5, 4, 3, 3][:listed]


def test_image_with_equally_many_copies_by_two_hashes_is_listed_with_the_first(context):
    rows = [
        {"kind": kind, "hash": "0", "copies": 3, "first": "web/00000000000", "last": None}
        for kind in ("exact", "url")
    ]
    context.store.put(DUPLICATES, encode_parquet(table_of(rows, DUPLICATES_SCHEMA)))
    assert [image["kind"] for image in most_copied_images(context.config, context.store)] == ["exact"]


@pytest.mark.parametrize(("max_copies", "surplus"), [(2, 3), (4, 1), (5, 0), (6, 0)])
def test_copies_are_surplus_only_above_the_limit(context, max_copies, surplus):
    config = config_of(context.config.run.dir, max_copies=max_copies)
    count_copies(writable(config))
    assert most_copied_images(config, context.store)[0]["surplus"] == surplus
    perceptual = pq.read_table(context.store.path(DUPLICATES)).to_pylist()[0]
    assert (perceptual["last"] is None) == (surplus == 0)


def test_dropped_copies_have_scores_but_no_verdict_and_are_left_out_of_noise_ratios(context):
    mark(context)
    glob = f"{context.config.run.dir}/rounds/1/*/*.parquet"
    rows = duckdb.sql(
        f"SELECT DISTINCT kept, itm_prob, flags FROM '{glob}' "
        "WHERE key = '00000100000' AND source = 'web' ORDER BY 2"
    ).fetchall()
    assert rows == [(None, p, ["degenerate", "duplicate_image"]) for p in (0.25, 0.75)]
    ratios = dict(duckdb.sql(f"SELECT origin, 1-avg(kept::int) FROM '{glob}' GROUP BY 1").fetchall())
    assert ratios == {"web": 1.0, "synthetic": 0.0}
    record = context.store.read_json("rounds/1/web/000001.json")
    assert record["candidates"] == {
        "synthetic": {"unjudged": 2, "kept": 2},
        "web": {"unjudged": 2, "dropped": 2},
    }
    assert record["duplicates"] == 4
    assert record["files"][0]["bytes"] == len(context.store.read("rounds/1/web/000001.parquet"))


def test_policy_flag_keeps_the_verdicts_and_policy_keep_counts_nothing(context):
    flag = context_of(config_of(context.config.run.dir, policy="flag"))
    assert mark(flag) == 2
    assert marked_rows(flag) == EXPECTED
    glob = f"{context.config.run.dir}/rounds/1/*/*.parquet"
    assert duckdb.sql(f"SELECT count(*) FROM '{glob}' WHERE kept IS NULL").fetchone() == (0,)
    keep = context_of(config_of(context.config.run.dir, policy="keep"))
    keep.store.remove(DUPLICATES)
    assert mark(keep) == 0
    assert not keep.store.exists(DUPLICATES)


def test_without_perceptual_hashes_only_equal_bytes_and_urls_are_copies(context):
    run = context_of(config_of(context.config.run.dir, perceptual=False))
    mark(run)
    assert ("web", 1, "00000100001") not in marked_rows(run) and len(marked_rows(run)) == 4


def test_marking_again_changes_nothing_and_follows_a_changed_corpus(context):
    before = {name: context.store.read(name) for name in walk(context.store, "rounds")}
    mark(context)
    marked = {name: context.store.read(name) for name in walk(context.store, "rounds")}
    assert mark(context) == 0
    assert {name: context.store.read(name) for name in walk(context.store, "rounds")} == marked
    # With fewer copies C is the second one of its hash, A in web2 is surplus, and the url has two images.
    context.store.remove("corpus/web/000000.json")
    assert mark(context) == 2
    assert marked_rows(context) == [("web2", 0, "00000000000"), ("web2", 0, "00000000001")]
    name = "rounds/1/web/000001.parquet"
    assert pq.read_table(io.BytesIO(context.store.read(name))).equals(pq.read_table(io.BytesIO(before[name])))


STEPS = 6
"""Removals, writes and creations that mark two shards."""


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_shard_counts_unmarked_or_marked_or_not_at_all_wherever_marking_is_killed(context, step, monkeypatch):
    monkeypatch.setattr(duplicates, "THREADS", 1)
    count_copies(context.run_dir)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        calls = ("remove_file", "put", "create")
        done = kill_at(patched, step, Store, calls, counts=lambda store, name, *_: name.startswith("rounds/"))
        mark(context, fetched=False)
        assert step == STEPS == len(done), "the number of steps has changed"
        raise Killed
    for source, shard in CORPUS:
        name = f"rounds/1/{source}/{shard:06d}"
        if context.store.exists(f"{name}.json"):
            rows = pq.read_table(io.BytesIO(context.store.read(f"{name}.parquet"))).to_pylist()
            assert count_verdicts(rows) == context.store.read_json(f"{name}.json")["candidates"]
        else:
            write_candidates(context.store, source, shard)  # as the bootstrap judges it again
    mark(context, fetched=False)
    assert marked_rows(context) == EXPECTED


def test_run_that_stops_marks_no_further_shard(context):
    context.stop.requested = True
    with pytest.raises(NodeStopped, match="not marked yet"):
        mark(context)
    assert marked_rows(context) == []


def test_copies_are_counted_again_only_with_other_settings(context):
    count_copies(context.run_dir)
    context.store.remove("corpus/web/000000.json")
    before = context.store.read(DUPLICATES)
    ensure_counted(context.run_dir)
    assert context.store.read(DUPLICATES) == before
    ensure_counted(writable(config_of(context.config.run.dir, max_copies=3)))
    assert context.store.read(DUPLICATES) != before


def test_pretraining_on_unfiltered_texts_skips_surplus_copies(context):
    count_copies(context.run_dir)
    ref = ShardRef("web", 1, "web")
    all_keys = ReadPairs(PairsConfig(run_dir=context.store)).read(ref)["key"].to_pylist()
    config = PairsConfig(run_dir=context.store, without_surplus=True)
    assert all_keys == [row_key(1, i) for i in range(4)]
    assert ReadPairs(config).read(ref)["key"].to_pylist() == [row_key(1, 2), row_key(1, 3)]


def test_late_attempt_does_not_overwrite_marked_candidates(context):
    mark(context)
    name = "rounds/1/web/000001"
    before = context.store.read(f"{name}.parquet")
    batch = table_of([{"source": "web", "shard": 1, "key": "x"}], ROW_SCHEMA)
    Write(WriteConfig(run_dir=context.store, round=1, round_fingerprint="f"))(batch)
    assert context.store.read(f"{name}.parquet") == before


def test_policy_belongs_to_the_fingerprint_of_verdicts_and_not_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(Fingerprints, "checkpoint", lambda self, role: "digest")
    configs = [config_of(tmp_path, policy=policy) for policy in ("keep", "flag", "drop")]
    fingerprints = [Fingerprints(config, plan(config)) for config in configs]
    for one, other in itertools.combinations(fingerprints, 2):
        assert one.of("bootstrap.1") != other.of("bootstrap.1")
        assert one.corpus("web") == other.corpus("web")


def test_surplus_copies_are_found_by_any_of_their_hashes():
    exact = {"kind": "exact", "hash": A[:32], "last": "web/00000000005"}
    copies = SurplusCopies([exact, {"kind": "perceptual", "hash": PHASH, "last": None}])
    row = {"source": "web", "key": "00000000005", "sha256": A, "phash": PHASH, "url": None}
    assert not copies.contains(row)
    assert copies.contains(row | {"key": "00000000006"})
    assert copies.contains(row | {"source": "web2", "key": "0"})
    assert not copies.contains(row | {"key": "9", "sha256": None, "phash": None})


@pytest.mark.parametrize(("bits", "is_counted"), [(31, False), (32, True), (33, True)])
def test_a_perceptual_hash_counts_from_half_of_its_bits(tmp_path, monkeypatch, bits, is_counted):
    phash = f"{(1 << bits) - 1:016x}"
    corpus = {("web", 0): [(A, phash), (B, phash), (C, phash)]}
    monkeypatch.setattr(sys.modules[__name__], "CORPUS", corpus)
    write_shards(tmp_path / "run", corpus)
    context = context_of(config_of(tmp_path / "run"))
    mark(context)
    assert marked_rows(context) == ([("web", 0, row_key(0, 2))] if is_counted else [])


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"half a table", None])
@pytest.mark.parametrize("name", [DUPLICATES, SURPLUS])
def test_a_damaged_count_is_made_again(context, name, damage):
    store = context.store
    count_copies(context.run_dir)
    before = {each: store.read(each) for each in (DUPLICATES, SURPLUS)}
    if damage is None:
        store.remove_file(name)
    else:
        store.put(name, damage)
    ensure_counted(context.run_dir)
    assert {each: store.read(each) for each in before} == before
