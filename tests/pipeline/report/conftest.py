"""The small run that the report's tests share."""

from pathlib import Path

import pytest

from capfilt.pipeline.report.inputs import ReportInputs
from tests.pipeline.report.report_cases import report_inputs, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of the run."""
    return write_run(tmp_path)


@pytest.fixture
def inputs(run: Path) -> ReportInputs:
    """What the report of its round 1 is made of."""
    return report_inputs(run)
