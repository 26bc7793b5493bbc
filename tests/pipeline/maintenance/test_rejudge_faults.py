"""`capfilt rejudge`: interruptions, mistakes, stale and damaged sets, S3."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.maintenance.verdict_repair import finish_sets, repair_sets
from capfilt.pipeline.maintenance.verify import verify_run
from capfilt.stages.errors import UserError
from capfilt.stages.storage.layout import candidates_shard
from capfilt.stages.storage.store import Store
from capfilt.stages.verdicts.rules import PolicyError
from capfilt.stages.verdicts.sets import VerdictSetError, check_current, open_set, read_kept, read_set
from tests.judged_run import JudgedRun, expected, itc, itm, make, records, snapshot, top, verdicts
from tests.killing import Killed, kill_at


@pytest.fixture
def run(tmp_path):
    return JudgedRun(tmp_path / "run", {"similarity": pa.float32()}).create()


STEPS = 12  # the description, five shards of a file and a record each, the description


@pytest.mark.parametrize("step", range(STEPS))
def test_interrupted_at_every_write_the_same_command_goes_on(run, tmp_path, monkeypatch, step):
    whole = JudgedRun(tmp_path / "whole", {"similarity": pa.float32()}).create()
    make(whole, keep=("top 30% by itc",))
    with monkeypatch.context() as patch:
        patch.setattr("capfilt.pipeline.maintenance.rejudge.THREADS", 1)
        steps = kill_at(patch, step, Store, ("put",))
        with pytest.raises(Killed):
            make(run, keep=("top 30% by itc",))
        assert len(steps) == step
    if step:
        with pytest.raises(VerdictSetError, match="not complete; finish it with capfilt rejudge"):
            open_set(run.store, "set", 1)
    done = make(run, keep=("top 30% by itc",))
    assert done.judged == 5 - max(0, step - 1) // 2
    assert snapshot(run) == snapshot(whole)
    assert make(run).judged == 0 and snapshot(run) == snapshot(whole)


def test_nothing_is_left_of_the_write_that_was_interrupted():
    assert STEPS == 1 + 5 * 2 + 1


def test_set_is_stale_once_candidates_are_replaced_and_is_made_again(run):
    found = make(run, keep=("top 30% by itc",)).set
    check_current(run.store, found, records(run))
    run.write("a", 1, seed=99)
    with pytest.raises(VerdictSetError, match="have changed since it was made; make it again"):
        check_current(run.store, found, records(run))
    with pytest.raises(VerdictSetError, match="verdicts/set/1/a/000001 has other candidates now"):
        read_kept(run.store, "set", records(run)[1], pa.table({}))
    again = make(run)
    assert again.is_remade and verdicts(run) == expected(run, top(run, 0.3, itc))
    # With a threshold that does not move, only the replaced shard is judged again.
    make(run, "fixed", keep=("itm >= 0.7",))
    run.write("b", 0, seed=98)
    assert make(run, "fixed").judged == 1


def test_verdicts_on_shards_that_are_gone_are_removed(run):
    make(run, keep=("itm >= 0.7",))
    run.store.remove_file(candidates_shard(1, "b", 1).record)
    run.store.remove_file(candidates_shard(1, "b", 1).parquet)
    run.rows = [row for row in run.rows if (row["source"], row["shard"]) != ("b", 1)]
    make(run)
    assert len(run.files("verdicts/set/1")) == 4 and verify_run(run.run_dir).unfinished_sets == []
    assert verdicts(run) == expected(run, lambda r: itm(r) >= 0.7)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"name": "default", "keep": ("true",)}, "the verdicts of the run itself"),
        ({"name": "a/b", "keep": ("true",)}, "no name of a verdict set"),
        ({"name": "x" * 65, "keep": ("true",)}, "no name of a verdict set"),
        ({}, "no rule; give --keep"),
        ({"keep": ("foo > 1",)}, "unknown column 'foo'"),
        ({"keep": ("foo=x: true",)}, "unknown column 'foo'"),
        ({"keep": ("top 10% by itc per foo",)}, "unknown column 'foo'"),
        ({"keep": ("source=c: true",)}, "no candidate has source=c; there is a, b"),
        ({"flags": ("nice",)}, "--drop-flag nice: unknown flag; allowed: empty, duplicate"),
        ({"keep": ("true",), "round_": 2}, "--round 2: not bootstrapped"),
        ({"keep": ("CAST(text AS INT) > 1",)}, "fails on a candidate (Conversion Error"),
        ({"keep": ("top 10% by CAST(text AS INT)",)}, "fails on a candidate (Conversion Error"),
    ],
)  # fmt: skip
def test_mistake_is_one_line_and_nothing_is_written(run, arguments, part):
    before = snapshot(run)
    with pytest.raises(UserError) as caught:
        make(run, **arguments)
    assert part in str(caught.value) and "\n" not in str(caught.value)
    assert snapshot(run) == before


def test_candidates_of_an_earlier_version_have_no_flags_of_content(run):
    make(run, "new", flags=("boilerplate",))
    for file in run.files():
        pq.write_table(pq.read_table(file).drop_columns(["text_sim", "logprob", "tokens"]), file)
    with pytest.raises(PolicyError, match="--drop-flag boilerplate: an earlier version wrote"):
        make(run, "old", flags=("boilerplate",))
    make(run, "old", flags=("duplicate",), drop=("text_sim < 0.1",))


def test_name_stands_for_one_policy(run):
    make(run, keep=("itm >= 0.7", "itc > 0"))
    before = snapshot(run)
    with pytest.raises(VerdictSetError, match=r"another policy \(round 1: keep itm >= 0.7; keep itc > 0\)"):
        make(run, keep=("itm >= 0.8",))
    make(run, keep=("itc > 0", "itm >= 0.7"))
    make(run)
    assert snapshot(run) == before


def test_missing_set_is_refused_with_the_command_that_makes_it(run):
    make(run, "one", keep=("true",))
    with pytest.raises(VerdictSetError, match=r"no verdict set two; it has default, one\. Make one with"):
        open_set(run.store, "two", 1)


def damage(run, place, data):
    run.store.put(place, data) if data is not None else run.store.remove_file(place)


@pytest.mark.parametrize(
    ("place", "data", "problem"),
    [
        ("verdicts/set/1/a/000001.parquet", b"x", "000001.parquet is not what was written"),
        ("verdicts/set/1/a/000001.parquet", None, "000001.parquet is missing"),
        ("records/verdicts/set/1/a/000001.json", b"{", "the record is damaged"),
        ("records/verdicts/set/1/a/000001.json", None, "no record, though the set is complete"),
    ],
)  # fmt: skip
def test_verify_finds_damage_and_repair_judges_the_shard_again(run, place, data, problem):
    make(run, keep=("itm >= 0.7",))
    before = snapshot(run)
    assert [p for p in verify_run(run.run_dir).problems if p.verdicts] == []
    damage(run, place, data)
    problems = [p for p in verify_run(run.run_dir).problems if p.verdicts]
    assert problems[0].place == "verdicts/set/1/a/000001" and problem in problems[0].what
    repair_sets(run.run_dir, [p.verdicts for p in problems])
    assert verify_run(run.run_dir).unfinished_sets == ["set of round 1"]
    assert finish_sets(run.run_dir) == ["verdict set set of round 1"]
    assert snapshot(run) == before


def test_verify_finds_a_stale_set_and_repair_makes_it_again(run):
    make(run, keep=("top 30% by itc",))
    run.write("a", 1, seed=99)
    (problem,) = [p for p in verify_run(run.run_dir).problems if p.verdicts]
    assert str(problem) == "verdicts/set/1: made from candidates that have been replaced since"
    repair_sets(run.run_dir, [problem.verdicts])
    finish_sets(run.run_dir)
    assert verdicts(run) == expected(run, top(run, 0.3, itc))
    assert [p for p in verify_run(run.run_dir).problems if p.verdicts] == []


def test_set_with_a_damaged_description_is_removed(run):
    before = snapshot(run)
    make(run, keep=("itm >= 0.7",))
    run.store.put("records/verdicts/set/1.json", b"{")
    (problem,) = [p for p in verify_run(run.run_dir).problems if p.verdicts]
    assert "damaged; make the set again: capfilt rejudge" in problem.what
    repair_sets(run.run_dir, [problem.verdicts])
    assert snapshot(run) == before and finish_sets(run.run_dir) == []


def test_set_waits_while_its_round_has_work_again(run):
    make(run, keep=("itm >= 0.7",))
    run.run_dir.ledger.reopen("bootstrap.1")
    found = verify_run(run.run_dir)
    assert found.unfinished_sets == ["set of round 1"] and not [p for p in found.problems if p.verdicts]
    assert finish_sets(run.run_dir) == []


def test_set_on_s3_is_the_same(healthy_s3, run):
    options = {"endpoint_url": healthy_s3.endpoint}
    remote = JudgedRun("s3://bucket/rejudged", {"similarity": pa.float32()}, storage_options=options).create()
    done = make(remote, keep=("web: top 30% by itc per source",), flags=("duplicate",))
    make(run, keep=("web: top 30% by itc per source",), flags=("duplicate",))
    assert done.judged == 5 and make(remote).judged == 0
    local = {name: data for name, data in snapshot(run).items() if "verdicts/" in name}
    assert len(local) == 11
    assert {name: data for name, data in snapshot(remote).items() if "verdicts/" in name} == local
    assert read_set(remote.store, "set", 1).is_done
