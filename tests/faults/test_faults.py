"""The short form of the fault tests; `python -m tests.faults` is the long one."""

import subprocess

import pytest

from tests.faults.harness import differences, disturb
from tests.faults.points import SHORT


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", SHORT, ids=str)
def test_whatever_dies_the_same_command_ends_with_the_same_files(fault, models, undisturbed, tmp_path):
    disturb(tmp_path, models, fault)
    assert differences(tmp_path / "run", undisturbed) == []


def test_the_comparison_sees_a_difference(undisturbed, tmp_path):
    subprocess.run(["cp", "-r", str(undisturbed), str(tmp_path / "run")], check=True)
    assert differences(tmp_path / "run", undisturbed) == []
    (tmp_path / "run/rounds/1/web/000000.parquet").unlink()
    tar = tmp_path / "run/corpus/web/000002.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"!")
    (tmp_path / "run/corpus/web/000009.tar").write_bytes(b"")
    assert differences(tmp_path / "run", undisturbed) == [
        "rounds/1/web/000000.parquet: missing",
        "corpus/web/000009.tar: left over",
        "corpus/web/000002.tar: differs",
    ]
