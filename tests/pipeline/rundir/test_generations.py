"""Generations of corpus shards: what a retry changes, what stays, and a kill at any step of a replacement."""

import io
import json

import pytest
from PIL import Image

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.rundir.generations import Replacement, finish_replacing, publish
from capfilt.stages.shards.records import CorpusRecord, RowCounts, StagedShard
from capfilt.stages.shards.retry import DamagedShard, UnknownClass, parse_retry_classes
from capfilt.stages.status import STATUSES
from capfilt.stages.storage.store import Store
from tests.killing import Killed, kill_at
from tests.pipeline.maintenance.partial_run import LATE_IMAGES, PartialRun, members
from tests.runs import NO_RESULT, writable
from tests.tiny import tiny_data


def test_only_failed_rows_are_downloaded_and_only_their_shards_change(partial_run):
    assert partial_run.statuses(0) == ["success", "missing_file", "success"]
    before, tar = partial_run.corpus(), members(partial_run.path / "images/web/000000.tar")
    for name in LATE_IMAGES:
        partial_run.draw(name)
    for i in (0, 2, 3, 5):
        (partial_run.images / f"p{i}.png").unlink()  # a second download of these rows would fail
    staged = partial_run.stage("missing_file")
    assert [each["status"] for each in staged] == [{"success": 1}] * 2
    assert [each["asked"] for each in staged] == [1, 1]
    assert partial_run.corpus() == before  # staged shards do not count
    changed, reopened = partial_run.publish()
    assert [each.shard for each in changed] == [0, 1] and reopened == ["bootstrap.1", "report.1"]
    assert partial_run.statuses(0) == partial_run.statuses(1) == ["success"] * 3
    partial_run.check_readers()
    after, new_tar = partial_run.corpus(), members(partial_run.path / "images/web/000000.tar")
    assert {name for name in after if after[name] != before.get(name)} == {
        f"00000{shard}.{suffix}" for shard in (0, 1) for suffix in ("tar", "parquet", "json")
    }
    assert tar.items() <= new_tar.items() and len(new_tar) == len(tar) + 3
    assert after["000000.json"]["rows"] == {"read": 3, "status": {"success": 3}}
    assert after["000000.json"]["texts"] == 3
    assert sorted(path.name for path in (partial_run.path / "records/rounds/1/web").iterdir()) == [
        "000002.json"
    ]
    assert partial_run.ledger.node("bootstrap.1") is None
    assert partial_run.store.exists("nodes/bootstrap.1.started.json")
    assert partial_run.ledger.node("report.1") is None


def test_result_equals_a_fetch_that_finds_all_images(partial_run, tmp_path):
    for name in LATE_IMAGES:
        partial_run.draw(name)
    complete = PartialRun(tmp_path, name="complete")
    complete.fetch()
    partial_run.stage("missing_file")
    partial_run.publish()
    assert partial_run.corpus() == complete.corpus()


def test_row_that_fails_as_before_replaces_nothing(partial_run):
    before = partial_run.corpus()
    staged = partial_run.stage("missing_file")
    assert [each["status"] for each in staged] == [{"missing_file": 1}] * 2
    assert partial_run.publish() == ([], [])
    assert partial_run.corpus() == before and partial_run.ledger.node("bootstrap.1") is not None
    assert partial_run.stage("dns", shards=(2,))[0]["asked"] == 0


def test_other_failure_is_a_change(partial_run):
    (partial_run.images / "p1.png").write_bytes(b"<html>no image</html>")
    assert partial_run.stage("missing_file", shards=(0,))[0]["status"] == {"not_image": 1}
    changed, _ = partial_run.publish()
    assert len(changed) == 1 and partial_run.statuses(0) == ["success", "not_image", "success"]


STEPS = 14
"""Writes, moves and removals that one replacement takes."""


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_replacement_killed_at_any_step_shows_readers_no_mixture_and_is_finished_later(
    partial_run, step, monkeypatch
):
    partial_run.draw("p1.png")
    partial_run.stage("missing_file", shards=(0,))
    with monkeypatch.context() as patched:
        calls = ("remove", "remove_file", "move", "create", "put")
        done = kill_at(patched, step, Store, calls, after=partial_run.check_readers)
        try:
            partial_run.publish()
            assert step == STEPS == len(done), "the number of steps has changed"
        except Killed:
            assert step < STEPS
    partial_run.check_readers()
    finish_replacing(partial_run.run_dir)
    assert partial_run.statuses(0) == ["success"] * 3
    assert partial_run.statuses(1) == ["success", "missing_file", "success"]
    assert len(partial_run.ledger.committed_shards("corpus/web")) == 3
    assert partial_run.ledger.committed_shards("rounds/1/web") == [1, 2]
    assert partial_run.ledger.node("bootstrap.1") is None and not partial_run.store.exists("replacing")
    partial_run.check_readers()


def test_staged_generation_of_a_shard_that_has_changed_since_is_dropped(partial_run):
    partial_run.draw("p1.png")
    partial_run.stage("missing_file", shards=(0,))
    path = partial_run.path / "records/corpus/web/000000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": {"fetch": 99}}))
    before = partial_run.corpus()
    finish_replacing(partial_run.run_dir)
    assert partial_run.corpus() == before and not partial_run.store.exists("replacing")


def test_late_attempt_does_not_change_the_staged_generation(partial_run):
    partial_run.draw("p1.png")
    (first,) = partial_run.stage("missing_file", shards=(0,))
    assert partial_run.stage("missing_file", shards=(0,)) == [first]
    partial_run.publish()
    partial_run.check_readers()


def test_damaged_shard_is_not_retried(partial_run):
    path = partial_run.path / "images/web/000000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DamagedShard, match=r"000000\.tar is not what was written; run capfilt verify --repair"
    ):
        partial_run.stage("missing_file", shards=(0,))


def test_statuses_that_can_be_retried():
    assert parse_retry_classes(" dns,timeout,http_5xx,dns") == ("dns", "http_5xx", "timeout")
    assert set(parse_retry_classes(None)) == {name for name, status in STATUSES.items() if status.retryable}
    with pytest.raises(UnknownClass, match=r"--class: slow: no such status; allowed: dns, connect, timeout"):
        parse_retry_classes("dns,slow")
    for classes in ("success", "pending", " , "):
        with pytest.raises(UnknownClass):
            parse_retry_classes(classes)


def test_tar_holds_the_images_themselves(partial_run):
    tar = members(partial_run.path / "images/web/000002.tar")
    for name, data in tar.items():
        if name.endswith(".jpg"):
            assert Image.open(io.BytesIO(data)).size == (8, 8)


@pytest.mark.parametrize(
    ("sources", "reopened"),
    [
        ([], []),
        (["human"], ["fetch", "report.1"]),
        (["test"], ["fetch", "evaluate.1", "report.1"]),
        (["web"], ["fetch", "bootstrap.1", "report.1"]),
    ],
)
def test_nodes_that_used_a_replaced_shard_are_reopened_and_trainings_stay(tmp_path, sources, reopened):
    run_dir = writable(parse_config(tiny_data(tmp_path), "test"))
    for name in run_dir.nodes:
        run_dir.ledger.finish(name, {}, NO_RESULT, 1.0)
    record = CorpusRecord(source="", shard=0, fingerprint="f", files=(), rows=RowCounts(read=0, status={}))
    staged = StagedShard(classes=("dns",), replaces="", asked=0, status={}, files={}, record=record)
    changed, names = publish(run_dir, [Replacement(source, 0, staged) for source in sources])
    assert (len(changed), names) == (len(sources), reopened)
    assert [name for name in run_dir.nodes if run_dir.ledger.node(name) is None] == reopened
    assert run_dir.store.list("replacing") == []


def test_reports_that_do_not_exist_are_not_counted_as_work(partial_run):
    partial_run.draw("p1.png")
    partial_run.stage("missing_file", shards=(0,))
    partial_run.ledger.discard("report.1", [])
    assert partial_run.publish()[1] == ["bootstrap.1"]
