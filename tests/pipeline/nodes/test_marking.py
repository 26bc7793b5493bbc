"""How the candidates of surplus copies are marked, also if marking is killed."""

import io

import duckdb
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.console.signals import NodeStopped
from capfilt.pipeline.nodes import duplicates
from capfilt.pipeline.nodes.duplicates import count_copies, mark_round
from capfilt.stages.rows import ROW_SCHEMA, table_of
from capfilt.stages.shards.commit import count_verdicts
from capfilt.stages.shards.records import encode
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.layout import DUPLICATES, candidates_shard
from capfilt.stages.storage.store import Store
from tests.killing import Killed, kill_at
from tests.pipeline.nodes.duplicates_run import (
    CORPUS,
    EXPECTED,
    config_of,
    context_of,
    mark,
    marked_rows,
    write_candidates,
)
from tests.runs import walk


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
    record = context.store.read_json("records/rounds/1/web/000001.json")
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


def test_marking_again_changes_nothing_and_follows_a_changed_corpus(context):
    before = {name: context.store.read(name) for name in walk(context.store, "rounds")}
    mark(context)
    marked = {name: context.store.read(name) for name in walk(context.store, "rounds")}
    assert mark(context) == 0
    assert {name: context.store.read(name) for name in walk(context.store, "rounds")} == marked
    # With fewer copies C is the second one of its hash, A in web2 is surplus, and the url has two images.
    context.store.remove("records/corpus/web/000000.json")
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
        done = kill_at(patched, step, Store, calls, counts=lambda store, name, *_: "rounds/" in name)
        mark(context, fetched=False)
        assert step == STEPS == len(done), "the number of steps has changed"
        raise Killed
    for source, shard in CORPUS:
        place = candidates_shard(1, source, shard)
        if context.store.exists(place.record):
            rows = pq.read_table(io.BytesIO(context.store.read(place.parquet))).to_pylist()
            assert count_verdicts(rows) == context.store.read_json(place.record)["candidates"]
        else:
            write_candidates(context.store, source, shard)  # as the bootstrap judges it again
    mark(context, fetched=False)
    assert marked_rows(context) == EXPECTED


def test_run_that_stops_marks_no_further_shard(context):
    context.stop.requested = True
    with pytest.raises(NodeStopped, match="not marked yet"):
        mark(context)
    assert marked_rows(context) == []


def test_late_attempt_does_not_overwrite_marked_candidates(context):
    mark(context)
    name = "rounds/1/web/000001"
    before = context.store.read(f"{name}.parquet")
    batch = table_of([{"source": "web", "shard": 1, "key": "x"}], ROW_SCHEMA)
    Write(WriteConfig(run_dir=context.store, round=1, round_fingerprint="f"))(batch)
    assert context.store.read(f"{name}.parquet") == before


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_records_are_read_once_and_handed_on_as_they_are_in_the_end(context, monkeypatch, policy):
    context = context_of(config_of(context.config.run.dir, policy=policy))
    read, handed = [], []
    real = type(context.ledger)._read_commit
    monkeypatch.setattr(
        "capfilt.pipeline.rundir.ledger.Ledger._read_commit",
        lambda ledger, name: read.append(name) or real(ledger, name),
    )
    node = context.run_dir.nodes["bootstrap.1"]
    changed = mark_round(context, node, fetched=True, on_record=handed.append)
    assert changed == (2 if policy == "drop" else 0)
    assert sorted(read) == sorted(set(read)) and len(read) == len(handed) == len(CORPUS)
    for record in handed:
        stored = context.store.read(candidates_shard(1, record.source, record.shard).record)
        assert encode(record) == stored
