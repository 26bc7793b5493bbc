"""Damage in a run directory: what `verify` names, what `repair` removes, and a kill at any step of a
repair."""

import errno
import json
import shutil

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.maintenance.repair import repair, repair_run
from capfilt.pipeline.maintenance.verify import Problem, verify_run
from capfilt.pipeline.rundir.ledger import LedgerError
from capfilt.stages.storage.store import Store
from tests.killing import Killed, kill_at
from tests.pipeline.maintenance.partial_run import PartialRun
from tests.runs import NO_RESULT, walk, writable
from tests.tiny import tiny_data

INDEX = "manifests/web"


@pytest.fixture
def run(done_run):
    return done_run


def verify(run):
    return verify_run(run.run_dir)


def problems(run):
    return [str(problem) for problem in verify(run).problems]


def verify_and_repair(run):
    return repair(run.run_dir, verify(run).problems)


def flip(run, name):
    """Flip a bit in the middle of a file."""
    data = bytearray(run.store.read(name))
    data[len(data) // 2] ^= 1
    run.store.put(name, bytes(data))


def files(run):
    return {name for name in walk(run.store) if not name.startswith("lease/")}


def test_undamaged_run_has_no_problems(run):
    found = verify(run)
    assert (found.problems, found.unfinished, found.shards) == ([], 0, 6)


DAMAGED = ("images/web/000000.tar", "corpus/web/000002.parquet", "rounds/1/web/000001.parquet")
STEPS = 11
"""Writes and removals that the repair of this damage takes."""


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_repair_killed_at_any_step_is_completed_by_the_next_call(run, tmp_path, monkeypatch, step):
    for name in DAMAGED:
        flip(run, name)
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    undisturbed = PartialRun(tmp_path / "copy")
    verify_and_repair(undisturbed)
    with monkeypatch.context() as patched:
        done = kill_at(patched, step, Store, ("put", "remove_file", "remove"))
        try:
            verify_and_repair(run)
            assert step == STEPS == len(done), "the number of steps has changed"
        except Killed:
            assert step < STEPS
    corpus, candidates = (set(run.ledger.committed_shards(f)) for f in ("corpus/web", "rounds/1/web"))
    assert candidates <= corpus, "candidates of images that will be downloaded again"
    if candidates != {0, 1, 2} or corpus != {0, 1, 2}:
        assert run.ledger.node("bootstrap.1") is None and run.ledger.node("report.1") is None
    verify_and_repair(run)
    # Files of a report that is removed in part may be left; the report is made again all the same.
    of_report = {name for name in files(run) if "report" in name}
    assert files(run) - of_report == files(undisturbed) - of_report
    assert run.ledger.committed_shards("corpus/web") == [1]
    assert run.ledger.committed_shards("rounds/1/web") == []
    found = verify(run)
    assert found.problems == [] and found.unfinished == 2 + 3 + 1  # corpus shards, candidates, the report


def remove(run, name):
    run.store.remove_file(name)


def truncate(run, name):
    run.store.put(name, b'{"half a rec')


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("parts/00000.parquet", flip, "00000.parquet is not what was written"),
        ("parts/00000.parquet", remove, "00000.parquet is missing"),
        ("index.json", remove, "missing"),
        ("index.json", truncate, "damaged ("),
    ],
)
def test_damaged_index_is_cut_again_and_costs_no_shard(run, name, damage, message):
    before = index_files(run)
    damage(run, f"{INDEX}/{name}")
    (line,) = problems(run)
    assert line.startswith(f"{INDEX}/index.json: {message}")
    assert verify_and_repair(run) == ["bootstrap.1", "report.1"]
    assert (
        run.ledger.committed_shards("corpus/web") == run.ledger.committed_shards("rounds/1/web") == [0, 1, 2]
    )
    run.fetch(shards=0)  # cuts the manifest
    assert index_files(run) == before
    assert problems(run) == []


def index_files(run):
    """{name: content} of the index, without the path of the manifest, which differs between tests."""
    found = {name: run.store.read(name) for name in files(run) if name.startswith(INDEX)}
    record = run.store.read_json(f"{INDEX}/index.json")
    return found | {f"{INDEX}/index.json": record | {"files": None, "checksum": None}}


def test_damaged_record_of_a_node_hides_other_problems_until_it_is_removed(run):
    truncate(run, "nodes/bootstrap.1.json")
    with pytest.raises(LedgerError, match=r"nodes/bootstrap\.1\.json: damaged \(.* --repair fixes it"):
        run.ledger.node("bootstrap.1")
    flip(run, "rounds/1/web/000001.parquet")
    (line,) = problems(run)
    assert line.startswith("nodes/bootstrap.1.json: damaged (Unterminated string")
    found, reopened = repair_run(run.run_dir)
    assert reopened == ["bootstrap.1", "report.1"] and len(found.problems) == 2
    assert run.ledger.committed_shards("rounds/1/web") == [0, 2] and run.ledger.committed_shards(
        "corpus/web"
    ) == [0, 1, 2]


@pytest.mark.parametrize("key", ["rows", "files", "name", "read"])
def test_record_without_a_required_key_is_damaged(run, key):
    name = "records/corpus/web/000001.json"
    run.store.put(name, run.store.read(name).replace(f'"{key}"'.encode(), b'"eh"'))
    assert any(
        "corpus/web/000001: the record is damaged (Object missing required field" in line
        for line in problems(run)
    )


def test_file_that_the_disk_cannot_read_is_damaged(run, monkeypatch):
    read = Store.read

    def fails(store, name):
        if name == DAMAGED[0]:
            raise OSError(errno.EIO, "Input/output error")
        return read(store, name)

    monkeypatch.setattr(Store, "read", fails)
    assert problems(run) == ["corpus/web/000000: 000000.tar cannot be read (Input/output error)"]


def test_totals_that_differ_in_a_status_are_a_problem_that_costs_no_shard(run):
    record = json.loads(run.store.read("nodes/bootstrap.1.json"))
    record["counts"]["status"] = {"success": 8, "dns": 1}
    run.store.put_json("nodes/bootstrap.1.json", record)
    assert problems(run) == [
        "nodes/bootstrap.1.json: 9 rows (1 dns, 8 success); the records of its shards say 9 rows (9 success)"
    ]
    assert (
        verify_and_repair(run) == ["bootstrap.1", "report.1"]
        and len(run.ledger.committed_shards("rounds/1/web")) == 3
    )


def test_totals_without_a_key_are_a_problem(run):
    record = json.loads(run.store.read("nodes/bootstrap.1.json"))
    run.store.put_json("nodes/bootstrap.1.json", record | {"counts": {}})
    assert problems(run) == [
        "nodes/bootstrap.1.json: 0 rows (); the records of its shards say 9 rows (9 success)"
    ]
    assert verify_and_repair(run) == ["bootstrap.1", "report.1"]


def test_missing_file_of_a_report_costs_the_report_only(run):
    remove(run, "reports/1/noise.parquet")
    assert problems(run) == ["reports/1/noise.parquet: missing"]
    assert verify_and_repair(run) == ["report.1"] and run.ledger.node("bootstrap.1") is not None
    assert not [name for name in files(run) if name.startswith("reports/")]


def edit(run, name, **changes):
    run.store.put_json(name, run.store.read_json(name) | changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "records/rounds/1/web/000001.json",
            {"fingerprint": "another"},
            "made with other settings than bootstrap.1",
        ),
        (
            "records/corpus/web/000001.json",
            {"fingerprint": "another"},
            "made with other settings than bootstrap.1",
        ),
        (
            "records/rounds/1/web/000001.json",
            {"candidates": {"web": {"kept": 1}}},
            "000001.parquet holds 0 rows, the record says 1",
        ),
        (
            "records/corpus/web/000001.json",
            {"texts": 7},
            "000001.parquet holds the texts 2, the record says 7",
        ),
        ("records/corpus/web/000001.json", {"shard": 2}, "the record is that of corpus/web/000002"),
        ("records/rounds/1/web/000001.json", {"source": "w"}, "the record is that of rounds/1/w/000001"),
        ("records/rounds/1/web/000001.json", {"round": 2}, "the record is that of rounds/2/web/000001"),
        (
            "records/corpus/web/000001.json",
            {"files": []},
            "the record does not list one file of each kind (parquet, tar)",
        ),
        (
            "records/corpus/web/000002.json",
            {"rows": {"read": 3, "status": {"success": 2, "dns": 1}}},
            "000002.tar holds 3 images, the record says 2",
        ),
        (
            "records/rounds/1/web/000001.json",
            {"rows": {"read": 3, "status": {"success": 2}}},
            "3 rows read, 2 accounted for",
        ),
        (
            "records/rounds/1/web/000001.json",
            {"rows": {"read": 2, "status": {"success": 2}}},
            "2 rows, but the manifest's slice has 3",
        ),
    ],
)
def test_record_that_does_not_fit_its_files_or_its_place_is_a_problem(run, name, changes, message):
    edit(run, name, **changes)
    place = name.removeprefix("records/").removesuffix(".json")
    assert f"{place}: {message}" in problems(run)


def test_shards_that_the_manifest_does_not_have_or_that_are_missing_are_problems(run):
    run.store.move("records/rounds/1/web/000002.json", "records/rounds/1/web/000003.json")
    assert problems(run) == [
        "rounds/1/web/000002: no record, though the node is done",
        "rounds/1/web/000003: the record is that of rounds/1/web/000002",
        "rounds/1/web/000003: no such slice in the manifest's index",
    ]


def test_last_slice_of_a_manifest_may_be_smaller(run):
    edit(run, f"{INDEX}/index.json", rows=8, checksum="")
    found = problems(run)
    assert "corpus/web/000002: 3 rows, but the manifest's slice has 2" in found
    assert not [line for line in found if "000001" in line]


class TestStaleNodes:
    """Which nodes of the whole method a repair makes run again."""

    @pytest.fixture
    def run_dir(self, tmp_path):
        run_dir = writable(parse_config(tiny_data(tmp_path), "test"))
        for name in run_dir.nodes:
            run_dir.ledger.finish(name, {}, NO_RESULT, 1.0)
        return run_dir

    @pytest.mark.parametrize(
        ("place", "node", "reopened"),
        [
            ("corpus/human/000000", "fetch", ["fetch", "report.1"]),
            ("corpus/test/000000", "fetch", ["fetch", "evaluate.1", "report.1"]),
            ("corpus/web/000000", "fetch", ["fetch", "bootstrap.1", "report.1"]),
            ("rounds/1/web/000000", "bootstrap.1", ["bootstrap.1", "report.1"]),
        ],
    )
    def test_damaged_shard_reopens_what_reads_it_except_trainings(self, run_dir, place, node, reopened):
        assert repair(run_dir, [Problem(place, "damaged", node, 0)]) == reopened
        assert [name for name in run_dir.nodes if run_dir.ledger.node(name) is None] == reopened
        half_done = {name for name in reopened if run_dir.ledger.latest(name) is not None}
        assert half_done == {name for name in reopened if run_dir.nodes[name].kind.streams_shards}

    def test_damaged_model_is_trained_again(self, run_dir):
        run_dir.store.put("models/captioner.1/model.safetensors", b"damaged")
        problem = Problem("models/captioner.1", "model.safetensors is not what was written", "captioner.1")
        assert repair(run_dir, [problem]) == ["captioner.1", "report.1"]
        assert not run_dir.store.exists("models/captioner.1")
        assert run_dir.ledger.latest("captioner.1") is None

    def test_wrong_totals_of_a_node_are_counted_again(self, run_dir):
        assert repair(run_dir, [Problem("nodes/fetch.json", "127 rows", "fetch")]) == ["fetch", "report.1"]
        assert run_dir.ledger.latest("fetch") is not None


def records_only(run):
    return verify_run(run.run_dir, records_only=True)


def test_records_alone_show_what_is_missing_and_truncated_but_not_other_content(run, monkeypatch):
    read = []
    monkeypatch.setattr(
        "capfilt.pipeline.maintenance.shard_checks.read_listed_file", lambda *words: read.append(words)
    )
    found = records_only(run)
    assert (found.problems, found.shards, found.rows, found.bytes) == ([], 6, 18, verify_bytes(run))
    flip(run, "images/web/000000.tar")
    run.store.remove_file("corpus/web/000001.parquet")
    run.store.put("rounds/1/web/000002.parquet", b"short")
    size = next(file["bytes"] for file in run.store.read_json("records/rounds/1/web/000002.json")["files"])
    run.store.put(f"{INDEX}/parts/00000.parquet", b"")
    index = run.store.read_json(f"{INDEX}/index.json")["parts"][0]["bytes"]
    assert sorted(map(str, records_only(run).problems)) == [
        "corpus/web/000001: 000001.parquet is missing",
        f"manifests/web/index.json: 00000.parquet has 0 of {index} bytes",
        f"rounds/1/web/000002: 000002.parquet has 5 of {size} bytes",
    ]
    assert read == []


def verify_bytes(run):
    """Bytes of all files that records of shards list."""
    names = [name for name in walk(run.store, "records") if name.endswith(".json") and "/web/" in name]
    return sum(file["bytes"] for name in names for file in run.store.read_json(name)["files"])


def test_records_alone_show_wrong_sums_and_a_repair_that_reads_no_file_removes_them(run):
    name = "records/corpus/web/000001.json"
    record = run.store.read_json(name)
    record["rows"]["read"] += 1
    run.store.put_json(name, record)
    run.store.put("records/rounds/1/web/000000.json", b"{")
    found = {str(problem).partition(":")[0] for problem in records_only(run).problems}
    assert found == {"corpus/web/000001", "rounds/1/web/000000"}
    _, reopened = repair_run(run.run_dir, records_only=True)
    assert "bootstrap.1" in reopened
    assert not run.store.exists(name) and not run.store.exists("records/rounds/1/web/000000.json")
