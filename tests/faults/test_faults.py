"""The short form of the fault tests; `python -m tests.faults` is the long one."""

import os
import random
import signal
import subprocess

import pytest

from tests.faults.harness import (
    chain_data,
    download_run,
    find_differences,
    run_with_fault,
    s3_run_dir,
    signal_after_records,
    start,
    wait_for_exit,
)
from tests.faults.points import SHORT
from tests.s3_server import S3Fault
from tests.tiny import write_config


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", SHORT, ids=str)
def test_after_a_fault_the_same_command_gives_the_same_files(fault, models, reference_run, tmp_path):
    run_with_fault(tmp_path, models, fault)
    assert find_differences(tmp_path / "run", reference_run) == []


@pytest.mark.timeout(400)
def test_after_a_signal_at_a_random_moment_the_same_command_gives_the_same_files(
    models, reference_run, tmp_path
):
    """Moment and signal differ from test run to test run."""
    draw = random.Random(os.getpid())
    records, signum = draw.randrange(1, 10), draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    config = write_config(tmp_path / "config.yaml", chain_data(tmp_path, models))
    signal_after_records(start(config), config, tmp_path / "run", records, signum)
    code, output = wait_for_exit(start(config), 150)
    assert code == 0, f"{signum} at {records} records; {output}"
    assert find_differences(tmp_path / "run", reference_run) == [], f"{signum} at {records} records"


def test_the_comparison_finds_each_kind_of_difference(reference_run, tmp_path):
    subprocess.run(["cp", "-r", str(reference_run), str(tmp_path / "run")], check=True)
    assert find_differences(tmp_path / "run", reference_run) == []
    (tmp_path / "run/rounds/1/web/000000.parquet").unlink()
    tar = tmp_path / "run/images/web/000002.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"!")
    (tmp_path / "run/images/web/000009.tar").write_bytes(b"")
    assert find_differences(tmp_path / "run", reference_run) == [
        "rounds/1/web/000000.parquet: missing",
        "images/web/000009.tar: left over",
        "images/web/000002.tar: differs",
    ]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_busy_s3_and_a_bucket_that_vanishes_change_nothing(models, reference_run, tmp_path, s3):
    config = write_config(tmp_path / "config.yaml", chain_data(tmp_path, models, s3))
    s3.inject(S3Fault("no_bucket", method="PUT", path=".*/run/images/web/000002.tar"))
    code, output = wait_for_exit(start(config, None, s3.environment), 200)
    assert code == 1, output
    errors = [line for line in output.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "NoSuchBucket" in errors[0] and s3_run_dir(tmp_path) in errors[0], output
    assert "Traceback" not in output and f"resume        capfilt run {config}" in output, output
    s3.inject(
        *(S3Fault(kind, every=23) for kind in ("slow_down", "error", "lost_response", "reset", "delay"))
    )
    code, output = wait_for_exit(start(config, None, s3.environment), 200)
    assert code == 0 and s3.count_injected() > 10, output
    s3.inject(S3Fault("truncate", method="GET", every=9))
    code, output = wait_for_exit(start(s3_run_dir(tmp_path), None, s3.environment, "verify"), 100)
    assert code == 0 and "0 differences; 0 not finished" in output, output
    s3.clear_faults()
    assert find_differences(download_run(tmp_path, s3), reference_run) == []
    for file in (tmp_path / "run").rglob("*"):
        assert not file.is_file() or s3.environment["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes()
