"""`capfilt rejudge`: verdicts against a brute-force computation, interruptions, stale sets, S3."""

import math

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.stages.verdicts.sets import read_kept
from tests.judged_run import JudgedRun, expected, itc, itm, make, records, top, verdicts


@pytest.fixture
def run(tmp_path):
    return JudgedRun(tmp_path / "run", {"similarity": pa.float32()}).create()


POLICIES = {
    "threshold": ({"keep": ("itm >= 0.7",)}, lambda run: lambda r: itm(r) >= 0.7),
    "by origin": (
        {"keep": ("web: itm >= 0.3", "synthetic: itc > 0.2")},
        lambda run: lambda r: itm(r) >= 0.3 if r["origin"] == "web" else itc(r) > 0.2,
    ),
    "outside every scope the run decides": (
        {"keep": ("source=a, synthetic: itm >= 0.9",)},
        lambda run: lambda r: (
            itm(r) >= 0.9 if r["source"] == "a" and r["origin"] == "synthetic" else r["kept"]
        ),
    ),
    "every rule has to be met": (
        {"keep": ("itm >= 0.3", "itc > 0", "web: words > 2")},
        lambda run: lambda r: itm(r) >= 0.3 and itc(r) > 0
        and (r["origin"] != "web" or len(r["text"].split()) > 2),
    ),
    "by captioner": (
        {"keep": ("captioner=cccccccccccccccc: itm >= 0.9",)},
        lambda run: lambda r: itm(r) >= 0.9 if r["captioner"] else r["kept"],
    ),
    "flags": ({"flags": ("duplicate", "degenerate")}, lambda run: lambda r: r["kept"] and not r["flags"]),
    "drop": (
        {"keep": ("true",), "drop": ("source=b: itc < 0", "url LIKE '%host1%'")},
        lambda run: lambda r: not (r["source"] == "b" and itc(r) < 0) and "host1" not in r["url"],
    ),
    "a column that only one source has": (
        {"keep": ("similarity >= 0.3",)},
        lambda run: lambda r: (r.get("similarity") or 0) >= 0.3,
    ),
    "dropping by it": (
        {"drop": ("similarity < 0.3",)},
        lambda run: lambda r: r["kept"] and r.get("similarity") != 0.25,
    ),
    "highest share": ({"keep": ("top 30% by itc",)}, lambda run: top(run, 0.3, itc)),
    "equal scores": ({"keep": ("top 30% by itm",)}, lambda run: top(run, 0.3, itm)),
    "share of a part, per source": (
        {"keep": ("web: top 12.5% by itc per source",)},
        lambda run: lambda r: top(run, 0.125, itc, lambda x: x["origin"] == "web", lambda x: x["source"])(r)
        if r["origin"] == "web" else r["kept"],
    ),
    "share of a column with nulls": (
        {"keep": ("top 50% by similarity per origin",)},
        lambda run: top(run, 0.5, lambda r: r.get("similarity"), group=lambda r: r["origin"]),
    ),
    "dropped share": (
        {"drop": ("top 10% by itc",)},
        lambda run: lambda r: r["kept"] and not top(run, 0.1, itc)(r),
    ),
    "verdict of the run": ({"keep": ("kept AND itc > 0",)}, lambda run: lambda r: r["kept"] and itc(r) > 0),
}  # fmt: skip


@pytest.mark.parametrize("name", POLICIES)
def test_verdicts_are_those_of_a_brute_force_computation(run, name):
    policy, oracle = POLICIES[name]
    done = make(run, **policy)
    assert verdicts(run) == expected(run, oracle(run))
    found = duckdb.sql(
        "SELECT origin, CASE WHEN kept THEN 'kept' WHEN NOT kept THEN 'dropped' ELSE 'unjudged' END, "
        f"count(*) FROM read_parquet({run.files('verdicts/set/1')}) GROUP BY ALL"
    ).fetchall()
    counted = {(origin, v): n for origin, of in done.set.verdicts.items() for v, n in of.items()}
    assert counted == {(origin, v): n for origin, v, n in found}


def test_threshold_of_the_run_gives_the_verdicts_of_the_run(run):
    make(run, keep=("itm >= 0.5",))
    assert verdicts(run) == expected(run, lambda row: row["kept"])


@pytest.mark.parametrize("share", [1, 33.3333, 33.3334, 100])
def test_share_is_rounded_up_to_whole_candidates(tmp_path, share):
    run = JudgedRun(tmp_path / "run").create()
    judged = sum(row["kept"] is not None for row in run.rows)
    done = make(run, keep=(f"top {share}% by itc",))
    kept = sum(of.get("kept", 0) for of in done.set.verdicts.values())
    assert kept == math.ceil(judged * round(share * 10_000) / 1_000_000)  # scores of itc differ


def test_rows_are_those_of_the_candidates_in_their_order(run):
    make(run, keep=("itm >= 0.7",))
    for file in run.files():
        candidates = pq.read_table(file)
        table = pq.read_table(file.replace("rounds/1", "verdicts/set/1"))
        for name in ("key", "source", "origin", "captioner", "caption_index"):
            assert table[name].equals(candidates[name])


def test_reader_gives_the_verdicts_of_a_named_set_and_of_the_run(run):
    make(run, keep=("itm >= 0.7",))
    for record, file in zip(records(run), run.files(), strict=True):
        table = pq.read_table(file)
        assert read_kept(run.store, "default", record, table).equals(table["kept"])
        kept = read_kept(run.store, "set", record, table).to_pylist()
        assert kept == pq.read_table(file.replace("rounds/1", "verdicts/set/1"))["kept"].to_pylist()
