"""Kill the program at a random moment, start the same command again: the result is that of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time

import duckdb
import pytest

from pipeline.step_log import read_steps
from stages.store import Store
from tests.tiny import tiny_data, write_config


def start(config):
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", str(config), "--until", "bootstrap.1"],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def candidates(run):
    query = f"""SELECT key, origin, caption_index, text, seed, kept, itm_prob, itc_sim
                FROM '{run}/rounds/1/web/*.parquet' ORDER BY key, origin, caption_index"""
    return duckdb.sql(query).fetchall()


def curve(run, training):
    """Step, losses and rates of every step, without the times."""
    rows = read_steps(Store(str(run / "logs" / training)))
    return [{k: v for k, v in row.items() if k not in ("samples_per_second", "time")} for row in rows]


def committed(run):
    return (
        len([p for p in run.rglob("*.json") if p.parent.name not in ("index", "lease")])
        if run.exists()
        else 0
    )


def stop_when(process, run, records, signum):
    """Signal the driver, or with SIGKILL it and everything it started, as soon as `records` records stand."""
    deadline = time.monotonic() + 240
    while committed(run) < records:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.05)
    if signum == signal.SIGKILL:
        os.killpg(process.pid, signum)
        process.wait()
        return
    process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, output
    assert "finishing what is in flight" in output, output
    assert f"resume        capfilt run {run.parent / 'disturbed.yaml'}" in output, output


@pytest.mark.timeout(600)
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.long)])
def test_killed_run_resumes_to_the_same_candidates(finished, tmp_path, times):
    """Killed or asked to stop, at moments that differ from test run to test run; in the long form once each."""
    draw = random.Random(os.getpid())
    kills = sorted(draw.sample(range(1, 20), times))
    signals = draw.sample([signal.SIGKILL, draw.choice([signal.SIGTERM, signal.SIGINT])], times)
    data = tiny_data(tmp_path)
    data["run"]["dir"] = str(tmp_path / "disturbed")
    config = write_config(tmp_path / "disturbed.yaml", data)
    for records, signum in zip(kills, signals, strict=True):
        stop_when(start(config), tmp_path / "disturbed", records, signum)
    process = start(config)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, f"{signals} at {kills} records; {output}"

    expected, found = candidates(finished[0]), candidates(tmp_path / "disturbed")
    assert [row[:6] for row in found] == [row[:6] for row in expected], f"{signals} at {kills} records"
    for mine, theirs in zip(found, expected, strict=True):
        assert mine[6:] == pytest.approx(theirs[6:], abs=1e-4)
    for training in ("pretrain.0", "captioner.1", "filter.1"):
        assert curve(tmp_path / "disturbed", training) == curve(finished[0], training), training
    leftovers = [p for p in (tmp_path / "disturbed").rglob(".tmp-*") if p.stat().st_mtime > time.time() - 1]
    assert not leftovers
