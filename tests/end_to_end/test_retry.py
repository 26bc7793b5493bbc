"""`capfilt retry` through Ray: afterwards the run equals one in which the rows never failed."""

import json
import shutil
import subprocess
import sys

import pytest
from msgspec.structs import replace
from rich.console import Console

from capfilt.pipeline.console.commands import resume_command
from capfilt.pipeline.maintenance.retry import closing_lines, retry_rows
from capfilt.pipeline.prepare import hold_run
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.rows import with_column
from capfilt.stages.shards.commit import make_corpus_record, read_commit
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.read import read_corpus_shard
from capfilt.stages.shards.records import encode
from capfilt.stages.shards.write import encode_corpus_files
from capfilt.stages.storage.layout import candidates_shard, corpus_shard
from capfilt.stages.storage.store import Store
from tests.runs import run_dag

LOST = {"00000100003": "timeout", "00000100011": "dns", "00000400000": "http_5xx"}
"""Key -> status that it gets; rows of shards 1 and 4."""


@pytest.fixture
def failed_rows(finished, tmp_path):
    """(run directory, config) of a copy of the finished run in which the fetch of three rows has failed."""
    original, config, _ = finished
    run = tmp_path / "run"
    shutil.copytree(original, run)
    store = Store(str(run))
    for place in (corpus_shard("web", 1), corpus_shard("web", 4)):
        record = read_commit(store, place.record)
        rows = read_corpus_shard(store, place)
        keys = rows["key"].to_pylist()
        for name in ("status", "error_message", "image", "sha256"):
            failed = {key: LOST[key] if name in ("status", "error_message") else None for key in LOST}
            values = [failed.get(k, v) for k, v in zip(keys, rows[name].to_pylist(), strict=True)]
            rows = with_column(rows, name, values, rows.schema.field(name).type)
        names = {"parquet": place.parquet, "tar": place.tar}
        files = [store.put(names[suffix], data) for suffix, data in encode_corpus_files(Pack()(rows))]
        made = make_corpus_record(rows, record.fingerprint, files)
        store.put(place.record, encode(replace(made, seconds=record.seconds, received=record.received)))
    return run, config.model_copy(update={"run": config.run.model_copy(update={"dir": str(run)})})


def retry(config, *classes):
    console = Console(quiet=True)
    with hold_run(config, console.print) as run_dir:
        return retry_rows(run_dir, classes, console)


def test_failed_rows_are_fetched_and_later_nodes_use_them(failed_rows, finished, ray_session):
    run, config = failed_rows
    times = {path: path.stat().st_mtime_ns for path in run.rglob("0*.*")}
    found = retry(config, "dns", "http_5xx", "timeout")
    assert (found.rows, dict(found.status), found.shards, found.changed) == (3, {"success": 3}, 2, 2)
    assert found.failed is None and found.unfinished == ["fetch", "bootstrap.1", "report.1"]
    assert found.trained_before == "pretrain.0"
    lines = dict(closing_lines(found, str(run), "capfilt retry", resume_command(str(run), [])))
    assert lines["continue"] == f"capfilt run {run}/config.yaml --set run.dir={run}"
    ledger = Ledger(Store(str(run)))
    assert ledger.committed_shards("rounds/1/web") == [0, 2, 3]
    outcome = run_dag(config, Console(quiet=True))
    assert outcome.failed == {} and outcome.done == ["fetch", "bootstrap.1", "report.1"]
    changed = {str(p.relative_to(run)) for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert {name for name in changed if name.startswith(("corpus", "images", "records", "rounds"))} == {
        name
        for shard in (1, 4)
        for place in (corpus_shard("web", shard),)
        # Equal candidates: the new attempt takes the file over.
        for name in (place.tar, place.parquet, place.record, candidates_shard(1, "web", shard).record)
    }
    for name in changed | {f"rounds/1/web/00000{shard}.parquet" for shard in (1, 4)}:
        if name.endswith((".tar", ".parquet")) and not name.startswith("reports"):
            assert (run / name).read_bytes() == (finished[0] / name).read_bytes(), name
    counts = json.loads((run / "nodes/fetch.json").read_text())["counts"]
    expected = json.loads((finished[0] / "nodes/fetch.json").read_text())["counts"]
    assert counts["bytes"].pop("received") > expected["bytes"].pop("received")  # three images came once more
    assert counts == expected | {"stage_seconds": counts["stage_seconds"]}
    assert not (run / "replacing").exists()
    again = retry(config, "dns", "http_5xx", "timeout")
    assert (again.rows, again.changed, again.unfinished) == (0, 0, [])


def test_mistakes_are_one_line(finished):
    def command(*words):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "retry", *words], capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stderr.strip()

    assert command("nowhere") == (
        2,
        "error: nowhere: not a run directory, it has no config.yaml; give the directory that run.dir named",
    )
    code, message = command(str(finished[0]), "--class", "dns,slow")
    assert code == 2 and message.startswith("error: --class: slow: no such status; allowed: dns, connect,")
