"""Damage without a cluster: what is named, what is taken back, and that a kill in between hides none of it."""

import errno
import json
import shutil

import pytest

from capfilt.pipeline.maintenance.repair import repair, repair_run
from capfilt.pipeline.maintenance.verify import REPORT_FILES, verify_run
from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.rundir.ledger import LedgerError, fingerprint
from capfilt.stages.rows import CANDIDATE_SCHEMA, table_of
from capfilt.stages.shards.records import CandidatesRecord, RowCounts, encode
from capfilt.stages.shards.write import parquet_bytes
from capfilt.stages.storage.store import Store
from tests.pipeline.maintenance.retry_scene import Scene
from tests.pipeline.test_forget import Killed, killed_after
from tests.runs import walk

NO_ROWS = parquet_bytes(table_of([], CANDIDATE_SCHEMA))
INDEX = "corpus/web/index"


@pytest.fixture
def run(scene):
    """The scene as a run that is done: a bootstrap that fetched, without candidates, and its report."""
    inputs = {"sources": {"web": scene.run_dir.fingerprints.corpus_inputs("web")}}
    for shard in range(3):
        name = f"rounds/1/web/{shard:06d}"
        record = CandidatesRecord(
            source="web",
            shard=shard,
            round=1,
            fingerprint=fingerprint(inputs),
            files=(scene.store.put(f"{name}.parquet", NO_ROWS),),
            rows=RowCounts(read=3, status={"success": 3}),
            candidates={},
        )
        scene.store.put(f"{name}.json", encode(record))
    done = NodeResult("", counts={"rows": 9, "status": {"success": 9}})
    scene.ledger.finish("bootstrap.1", inputs, done, 1.0)
    for file in REPORT_FILES:
        scene.store.put(f"reports/1/{file}", b"")
    return scene


def look(run):
    return verify_run(run.run_dir)


def said(run):
    return [str(problem) for problem in look(run).problems]


def mend(run):
    return repair(run.run_dir, look(run).problems)


def flip(run, name):
    data = bytearray(run.store.read(name))
    data[len(data) // 2] ^= 1
    run.store.put(name, bytes(data))


def names(run):
    return {name for name in walk(run.store) if not name.startswith("lease/")}


def test_undamaged(run):
    found = look(run)
    assert (found.problems, found.unfinished, found.shards) == ([], 0, 6)


DAMAGED = ("corpus/web/000000.tar", "corpus/web/000002.parquet", "rounds/1/web/000001.parquet")
REPAIR_STEPS = 11
"""Writes and removals that taking these back costs."""


@pytest.mark.parametrize("steps", range(REPAIR_STEPS + 1))
def test_wherever_taking_back_is_broken_off_the_next_call_takes_back_the_rest(
    run, tmp_path, monkeypatch, steps
):
    for name in DAMAGED:
        flip(run, name)
    shutil.copytree(tmp_path, tmp_path / "twin", ignore=shutil.ignore_patterns("twin"))
    twin = Scene(tmp_path / "twin")
    mend(twin)
    with monkeypatch.context() as patched:
        killed_after(patched, Store, ["put", "remove_file", "remove"], steps)
        try:
            mend(run)
            finished = True
        except Killed:
            finished = False
    assert finished == (steps == REPAIR_STEPS), f"it takes others than {REPAIR_STEPS} steps now: try them all"
    standing = {shard for shard in range(3) if run.store.exists(f"corpus/web/{shard:06d}.json")}
    candidates = {shard for shard in range(3) if run.store.exists(f"rounds/1/web/{shard:06d}.json")}
    assert candidates <= standing, "candidates of pictures that will be asked for again"
    if candidates != {0, 1, 2} or standing != {0, 1, 2}:
        assert run.ledger.node("bootstrap.1") is None and run.ledger.node("report.1") is None
    mend(run)
    of_report = {
        name for name in names(run) if "report" in name
    }  # half forgotten, it is made again all the same
    assert names(run) - of_report == names(twin) - of_report
    assert (run.ledger.committed_shards("corpus/web"), run.ledger.committed_shards("rounds/1/web")) == (
        [1],
        [],
    )
    found = look(run)
    assert found.problems == [] and found.unfinished == 2 + 3 + 1  # corpus shards, candidates, the report


def lose(run, name):
    run.store.remove_file(name)


def garble(run, name):
    run.store.put(name, b'{"half a rec')


@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("00000.parquet", flip, "00000.parquet is not what was written"),
        ("00000.parquet", lose, "00000.parquet is missing"),
        ("index.json", lose, "missing"),
        ("index.json", garble, "damaged ("),
    ],
)
def test_a_damaged_index_is_cut_again_and_costs_no_shard(run, name, damage, what):
    before = contents(run)
    damage(run, f"{INDEX}/{name}")
    (line,) = said(run)
    assert line.startswith(f"{INDEX}/index.json: {what}")
    assert mend(run) == ["bootstrap.1", "report.1"]
    assert (
        run.ledger.committed_shards("corpus/web") == run.ledger.committed_shards("rounds/1/web") == [0, 1, 2]
    )
    run.fetch(shards=0)  # which cuts the manifest
    assert contents(run) == before
    assert said(run) == []


def contents(run):
    """Of the index, without the manifest's place, which is another in each test."""
    found = {file: run.store.read(file) for file in names(run) if file.startswith(INDEX)}
    return found | {f"{INDEX}/index.json": run.store.read_json(f"{INDEX}/index.json") | {"files": None}}


def test_damaged_records_of_nodes_are_told_in_a_line_and_found_out_again(run):
    garble(run, "nodes/bootstrap.1.json")
    with pytest.raises(LedgerError, match=r"nodes/bootstrap\.1\.json: damaged \(.* --repair fixes it"):
        run.ledger.node("bootstrap.1")
    flip(run, "rounds/1/web/000001.parquet")  # which it hides
    assert said(run) == ["nodes/bootstrap.1.json: damaged (Input data was truncated)"]
    found, again = repair_run(run.run_dir)
    assert again == ["bootstrap.1", "report.1"] and len(found.problems) == 2
    assert run.ledger.committed_shards("rounds/1/web") == [0, 2] and run.ledger.committed_shards(
        "corpus/web"
    ) == [0, 1, 2]


@pytest.mark.parametrize("key", ["rows", "files", "name", "read"])
def test_a_record_with_a_flipped_key_is_a_damaged_record(run, key):
    name = "corpus/web/000001.json"
    run.store.put(name, run.store.read(name).replace(f'"{key}"'.encode(), b'"eh"'))
    assert any(
        "corpus/web/000001: the record is damaged (Object missing required field" in line
        for line in said(run)
    )


def test_a_disk_that_cannot_read_a_file_is_damage(run, monkeypatch):
    read = Store.read

    def fails(store, name):
        if name == DAMAGED[0]:
            raise OSError(errno.EIO, "Input/output error")
        return read(store, name)

    monkeypatch.setattr(Store, "read", fails)
    assert said(run) == ["corpus/web/000000: 000000.tar cannot be read (Input/output error)"]


def test_totals_that_differ_in_a_status_are_found(run):
    record = json.loads(run.store.read("nodes/bootstrap.1.json"))
    record["counts"]["status"] = {"success": 8, "dns": 1}
    run.store.put_json("nodes/bootstrap.1.json", record)
    assert said(run) == [
        "nodes/bootstrap.1.json: 9 rows (1 dns, 8 success); its shards' records say 9 rows (9 success)"
    ]
    assert mend(run) == ["bootstrap.1", "report.1"] and len(run.ledger.committed_shards("rounds/1/web")) == 3
