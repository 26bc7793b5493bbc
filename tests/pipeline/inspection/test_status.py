"""`capfilt status`: what a run directory holds, without lease and Ray, at a bounded number of requests."""

import json
import os
import time

import pytest
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.inspection import status as module
from capfilt.pipeline.inspection.status import read_status, speed
from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.prepare import open_run
from capfilt.pipeline.rundir.lease import LAPSE_SECONDS, hold
from capfilt.stages.manifest.index import Index
from capfilt.stages.shards.records import encode
from capfilt.stages.storage.layout import (
    candidates_shard,
    failure_log,
    lease_file,
    log_folder,
    node_record,
)
from capfilt.stages.storage.store import Store
from tests.pipeline.export.exported_run import make_run

BOOTSTRAP = "bootstrap.1"


def begin_bootstrap(run_dir, shards=5):
    """The bootstrap is at work: its records are there, its node record is not; the manifests are cut."""
    run_dir.store.remove_file(node_record(BOOTSTRAP))
    run_dir.ledger.start(BOOTSTRAP, {"made": "by hand"})
    for node in ("pretrain.0", "captioner.1", "filter.1"):
        run_dir.ledger.finish(node, {"made": "by hand"}, NodeResult(""), 3.0)
    for source in ("web", "more"):
        index = Index(rows=7 * shards, shards=shards, identity="i", files=("f",))
        run_dir.store.put(f"manifests/{source}/index.json", encode(index))


def node_of(found, name):
    return next(node for node in found.nodes if node.node == name)


def test_nodes_shards_and_failures_of_a_run_at_work(made_run):
    begin_bootstrap(made_run)
    with hold(made_run.store, print):
        found = read_status(made_run)
    states = {node.node: node.state for node in found.nodes}
    assert states == {
        "fetch": "done", "pretrain.0": "done", "captioner.1": "done", "filter.1": "done",
        BOOTSTRAP: "running", "pretrain.1": "waiting", "evaluate.1": "waiting", "report.1": "waiting",
    }  # fmt: skip
    node = node_of(found, BOOTSTRAP)
    assert (node.done, node.total, node.unit) == (4, 10, "shards")
    assert node.status == {"success": 24, "dns": 4} and node.sampled_shards is None
    assert node.per_minute is not None and node.left_seconds is not None
    assert (found.lease.pid, found.lease.alive, found.is_at_work) == (os.getpid(), True, True)


def test_a_run_whose_process_is_dead(made_run):
    begin_bootstrap(made_run)
    made_run.store.put(failure_log(BOOTSTRAP), b"Traceback\n  File x\nOSError: the disk is gone\n\n")
    found = read_status(made_run)
    node = node_of(found, BOOTSTRAP)
    assert (node.state, node.error) == ("failed", "OSError: the disk is gone")
    assert (node.per_minute, node.left_seconds) == (None, None)
    assert found.lease is None and not found.is_at_work
    made_run.store.remove_file(failure_log(BOOTSTRAP))
    assert node_of(read_status(made_run), BOOTSTRAP).state == "interrupted"


@pytest.mark.parametrize(("age", "alive"), [(LAPSE_SECONDS - 1, True), (LAPSE_SECONDS, False)])
def test_the_lease_of_another_machine_is_alive_while_it_beats(made_run, age, alive):
    owner = {"host": "other", "pid": 7, "since": "2026-11-01T00:00:00+00:00", "machine": "m", "beats": 3}
    made_run.store.put_json(lease_file(4), owner)
    written = os.stat(made_run.store.path(lease_file(4))).st_mtime
    lease = read_status(made_run, written + age).lease
    assert (lease.host, lease.pid, lease.beats, lease.alive) == ("other", 7, 3, alive)
    assert lease.heartbeat_seconds == age


def test_a_process_of_this_machine_that_has_ended_is_dead_at_once(made_run):
    with hold(made_run.store, print):
        owner = made_run.store.read_json(lease_file(1))
    made_run.store.put_json(lease_file(1), {**owner, "process": "0"})
    assert read_status(made_run).lease.alive is False


def test_a_damaged_lease_is_shown(made_run):
    made_run.store.put(lease_file(1), b"{")
    assert read_status(made_run).lease.host == "unknown"


def test_a_report_whose_bootstrap_was_redone_is_stale(made_run):
    upstream = {BOOTSTRAP: made_run.ledger.node(BOOTSTRAP).fingerprint}
    made_run.ledger.finish("report.1", {"upstream": upstream}, NodeResult(""), 1.0)
    made_run.ledger.finish("evaluate.1", {}, NodeResult(""), 1.0)
    assert node_of(read_status(made_run), "report.1").state == "done"
    made_run.ledger.finish(BOOTSTRAP, {"made": "again"}, NodeResult(""), 1.0)
    assert node_of(read_status(made_run), "report.1").state == "stale"


def test_steps_of_a_training(made_run):
    made_run.ledger.start("pretrain.0", {"made": "by hand"})
    lines = [json.dumps({"step": step, "time": 100.0 + 2 * step}) for step in range(1, 4)]
    log = f"{log_folder('pretrain.0')}/000000001.jsonl"
    made_run.store.put(log, "\n".join([*lines, '{"step": 4, "ti']).encode())
    with hold(made_run.store, print):
        node = node_of(read_status(made_run), "pretrain.0")
    assert (node.done, node.total, node.unit, node.per_minute, node.left_seconds) == (3, 6, "steps", 30.0, 6)


@pytest.mark.parametrize(
    ("times", "now", "expected"),
    [
        ([], 10.0, None),
        ([1.0], 10.0, None),
        ([0.0, 60.0], 60.0, 1.0),
        ([0.0, *range(1000, 1061)], 1060.0, 60.0),  # only the last minutes count
        ([0.0, 30.0, 60.0], 6000.0, 0.02),  # a run that has slowed down
    ],
)
def test_speed(times, now, expected):
    assert speed([float(each) for each in times], now) == expected


def test_requests_do_not_grow_with_the_run(made_run, monkeypatch):
    begin_bootstrap(made_run)
    record = made_run.store.read(candidates_shard(1, "web", 0).record)
    for shard in range(3, 600):
        made_run.store.put(candidates_shard(1, "web", shard).record, record)
    reads, original = [], Store.find
    monkeypatch.setattr(Store, "find", lambda store, name: reads.append(name) or original(store, name))
    node = node_of(read_status(made_run), BOOTSTRAP)
    assert (node.done, node.sampled_shards) == (601, module.SAMPLE)
    assert sum(node.status.values()) == 7 * module.SAMPLE
    assert len(reads) < module.SAMPLE + 40


def test_a_run_on_s3(healthy_s3, tmp_path, monkeypatch):
    run_dir = make_run(tmp_path, "s3://bucket/status", {"endpoint_url": healthy_s3.endpoint})
    begin_bootstrap(run_dir)
    with hold(run_dir.store, print):
        found = read_status(open_run(run_dir.config))
    assert found.lease.alive and found.lease.heartbeat_seconds < LAPSE_SECONDS
    node = node_of(found, BOOTSTRAP)
    assert (node.state, node.done, node.status["dns"]) == ("running", 4, 4)


def test_the_command_prints_a_line_per_node_and_the_way_on(made_run):
    begin_bootstrap(made_run)
    run = made_run.store.url
    before = {path: os.stat(path).st_mtime_ns for path in made_run.store.fs.find(run)}
    shown = CliRunner().invoke(app, ["status", run, "--watch"])
    assert shown.exit_code == 0, shown.output
    assert "bootstrap.1  interrupted" in shown.output and "4/10 shards" in shown.output
    assert "failed rows   bootstrap.1: 4 dns" in shown.output
    assert f"resume        capfilt run {run}/config.yaml --set run.dir={run}" in shown.output
    data = json.loads(CliRunner().invoke(app, ["status", run, "--json"]).output)
    assert data["nodes"][4]["done"] == 4 and data["lease"] is None
    assert {path: os.stat(path).st_mtime_ns for path in made_run.store.fs.find(run)} == before


def test_watching_ends_when_the_run_ends(made_run, monkeypatch):
    begin_bootstrap(made_run)
    owner = {"host": "other", "pid": 7, "since": "2026", "machine": "m", "beats": 3}
    made_run.store.put_json(lease_file(1), owner)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            made_run.store.remove_file(lease_file(1))

    monkeypatch.setattr(time, "sleep", sleep)
    shown = CliRunner().invoke(app, ["status", made_run.store.url, "--watch"])
    assert shown.exit_code == 0 and looks == [5.0, 5.0]
    assert shown.output.count("running") == 2 and shown.output.count("interrupted") == 1


def test_a_folder_that_is_no_run(tmp_path):
    shown = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert shown.exit_code == 2
