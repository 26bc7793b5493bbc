"""A run that is killed at random moments and resumed by the same command equals an uninterrupted one."""

import os
import random
import signal
import subprocess
import sys

import duckdb
import pytest

from tests.faults.harness import signal_after_records, training_curve
from tests.killing import default_signals
from tests.tiny import tiny_data, write_config


def start(config):
    with default_signals():
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


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_run_resumes_to_the_same_candidates(finished, tmp_path):
    """A whole loop, killed once and asked to stop once, at moments that differ from test run to test run. The
    short form in tests/faults runs only a bootstrap."""
    draw = random.Random(os.getpid())
    kills = sorted(draw.sample(range(1, 20), 2))
    signals = draw.sample([signal.SIGKILL, draw.choice([signal.SIGTERM, signal.SIGINT])], 2)
    data = tiny_data(tmp_path)
    data["run"]["dir"] = str(tmp_path / "disturbed")
    config = write_config(tmp_path / "disturbed.yaml", data)
    for records, signum in zip(kills, signals, strict=True):
        signal_after_records(start(config), config, tmp_path / "disturbed", records, signum)
    process = start(config)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, f"{signals} at {kills} records; {output}"

    expected, found = candidates(finished[0]), candidates(tmp_path / "disturbed")
    assert [row[:6] for row in found] == [row[:6] for row in expected], f"{signals} at {kills} records"
    for row, expected_row in zip(found, expected, strict=True):
        assert row[6:] == pytest.approx(expected_row[6:], abs=1e-4)
    for training in ("pretrain.0", "captioner.1", "filter.1"):
        assert training_curve(tmp_path / "disturbed", training) == training_curve(finished[0], training), (
            training
        )
    leftovers = [p for p in (tmp_path / "disturbed").rglob(".tmp-*") if p.parent.name != "lease"]
    assert not leftovers
