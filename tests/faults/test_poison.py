"""The short form of the poison tests; `python -m tests.faults --on poison` is the long one."""

import json

import pytest

from tests.faults.poison import SHORT, differences, poisoned


@pytest.mark.long
@pytest.mark.timeout(600)
def test_rows_that_kill_hang_leak_or_raise_end_alone(models, undisturbed, tmp_path):
    output = poisoned(tmp_path, models, SHORT)
    assert differences(tmp_path / "run", undisturbed, SHORT) == [], output
    record = json.loads((tmp_path / "run/nodes/bootstrap.1.json").read_text())
    assert record["counts"]["status"] == {"success": 85, "crashed": 4, "internal": 1}


def test_the_comparison_sees_what_is_missing(undisturbed):
    found = differences(undisturbed, undisturbed, {"caption": {"00000100000": "kill"}})
    assert found[0] == "row 00000100000: ('success', '')" and len(found) > 2
