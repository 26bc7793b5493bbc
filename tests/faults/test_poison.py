"""The short form of the poison tests; `python -m tests.faults --on poison` is the long one."""

import json

import pytest

from tests.faults.poison import SHORT, find_differences, run_poisoned


@pytest.mark.long
@pytest.mark.timeout(600)
def test_only_the_rows_that_kill_hang_leak_or_raise_fail(models, reference_run, tmp_path):
    output = run_poisoned(tmp_path, models, SHORT)
    assert find_differences(tmp_path / "run", reference_run, SHORT) == [], output
    record = json.loads((tmp_path / "run/nodes/bootstrap.1.json").read_text())
    assert record["counts"]["status"] == {"success": 85, "crashed": 4, "internal": 1}


def test_the_comparison_finds_a_poisoned_row_that_did_not_fail(reference_run):
    found = find_differences(reference_run, reference_run, {"caption": {"00000100000": "kill"}})
    assert found[0] == "row 00000100000: ('success', '')" and len(found) > 2
