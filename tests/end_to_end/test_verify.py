"""`capfilt verify` finds and names each kind of damage, and --repair redoes exactly the damaged parts."""

import json
import shutil
import subprocess
import sys

import pytest
from rich.console import Console

from capfilt.pipeline.maintenance.repair import repair
from capfilt.pipeline.maintenance.verify import verify_run
from capfilt.pipeline.prepare import open_run
from tests.runs import run_dag, writable


@pytest.fixture
def copied(finished, tmp_path):
    """(run directory, config) of a copy of the finished run."""
    original, config, _ = finished
    run = tmp_path / "run"
    shutil.copytree(original, run)
    return run, config.model_copy(update={"run": config.run.model_copy(update={"dir": str(run)})})


def verify(run, config):
    assert str(run) == config.run.dir
    return verify_run(open_run(config))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def delete(path):
    path.unlink()


def miscount(path):
    record = json.loads(path.read_text())
    record["rows"]["read"] += 1
    path.write_text(json.dumps(record))


def swap(path):
    """Replace the fingerprint, as if the shard belonged to another run."""
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"fingerprint": "0" * 16}))


def garble(path):
    path.write_text('{"half a rec')


def test_an_undamaged_run_verifies(copied):
    found = verify(*copied)
    assert found.problems == [] and found.unfinished == 0
    # 90 web rows twice (corpus and candidates), 24 human, 12 test.
    assert found.rows == 90 * 2 + 24 + 12 and found.bytes > 100_000


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("images/web/000001.tar", flip, "corpus/web/000001: 000001.tar is not what was written"),
        ("images/web/000003.tar", truncate, "corpus/web/000003: 000003.tar is not what was written"),
        ("corpus/web/000004.parquet", truncate, "corpus/web/000004: 000004.parquet is not what was written"),
        ("images/human/000000.tar", delete, "corpus/human/000000: 000000.tar is missing"),
        ("records/corpus/test/000000.json", delete, "corpus/test/000000: no record, though the node is done"),
        ("rounds/1/web/000002.parquet", delete, "rounds/1/web/000002: 000002.parquet is missing"),
        ("records/rounds/1/web/000000.json", miscount, "rounds/1/web/000000: 21 rows read, 20 accounted for"),
        (
            "records/rounds/1/web/000001.json",
            swap,
            "rounds/1/web/000001: made with other settings than bootstrap.1",
        ),
        ("records/corpus/web/000001.json", swap, "corpus/web/000001: made with other settings than fetch"),
        (
            "records/rounds/1/web/000003.json",
            garble,
            "rounds/1/web/000003: the record is damaged (Input data was truncated)",
        ),
        (
            "models/filter.1/model.safetensors",
            flip,
            "models/filter.1: model.safetensors is not what was written",
        ),
        ("models/captioner.1/tokenizer.json", delete, "models/captioner.1: tokenizer.json is missing"),
        (
            "models/pretrain.0/provenance.json",
            garble,
            "models/pretrain.0: provenance.json is missing or damaged",
        ),
        (
            "manifests/web/parts/00000.parquet",
            flip,
            "manifests/web/index.json: 00000.parquet is not what was",
        ),
        ("reports/1/noise.parquet", delete, "reports/1/noise.parquet: missing"),
    ],
)
def test_each_damage_is_named(copied, file, damage, message):
    run, config = copied
    damage(run / file)
    assert message in "\n".join(map(str, verify(run, config).problems))


def test_repair_redoes_exactly_the_damaged_parts(copied, finished, ray_session):
    run, config = copied
    damaged = {
        "images/web/000001.tar": flip,
        "images/web/000003.tar": truncate,
        "rounds/1/web/000002.parquet": flip,
        "rounds/1/web/000004.parquet": delete,
        "records/rounds/1/web/000004.json": delete,
        "models/captioner.1/model.safetensors": flip,
    }
    for name, damage in damaged.items():
        damage(run / name)
    times = {path: path.stat().st_mtime_ns for path in run.rglob("0*.json")}
    again = repair(writable(config), verify(run, config).problems)
    assert again == ["fetch", "captioner.1", "bootstrap.1", "report.1"]
    outcome = run_dag(config, Console(quiet=True))
    assert outcome.failed == {} and outcome.done == again
    assert verify(run, config).problems == []
    for name in damaged:
        if not name.endswith(".json"):
            assert (run / name).read_bytes() == (finished[0] / name).read_bytes(), name
    changed = {str(p.relative_to(run)) for p, t in times.items() if p.stat().st_mtime_ns != t}
    redone = [f"records/corpus/web/00000{n}.json" for n in (1, 3)] + [
        f"records/rounds/1/web/00000{n}.json" for n in (1, 2, 3)
    ]
    assert {name for name in changed if name.startswith(("corpus", "images", "records", "rounds"))} == set(
        redone
    )


def test_wrong_totals_redo_no_shard(copied):
    run, config = copied
    path = run / "nodes/fetch.json"
    record = json.loads(path.read_text())
    record["counts"]["rows"] += 1
    path.write_text(json.dumps(record))
    run_dir = writable(config)
    found = verify(run, config)
    assert [str(p) for p in found.problems] == [
        "nodes/fetch.json: 127 rows (126 success); the records of its shards say 126 rows (126 success)"
    ]
    assert "fetch" in repair(run_dir, found.problems)
    assert len(list((run / "images/web").glob("*.tar"))) == 5 and run_dir.ledger.node("fetch") is None


def test_the_command_exits_with_1_and_prints_how_to_repair(copied):
    run, _ = copied
    flip(run / "rounds/1/web/000000.parquet")
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", "verify", str(run)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1, result.stderr
    assert "differs rounds/1/web/000000: 000000.parquet is not what was written" in result.stdout
    assert f"capfilt verify {run} --repair" in result.stdout


def test_an_interrupted_repair_is_finished_by_the_same_command(copied, finished):
    """A repair killed after it had removed the damaged parts: parts are missing, but none differs."""
    run, config = copied
    name = "rounds/1/web/000002.parquet"
    flip(run / name)
    repair(writable(config), verify(run, config).problems)
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", "verify", str(run), "--repair"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 differences; 2 not finished" in result.stdout  # the shard, the report
    assert (run / name).read_bytes() == (finished[0] / name).read_bytes()
    found = verify(run, config)
    assert found.problems == [] and found.unfinished == 0
