"""The report node."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.nodes import report
from capfilt.pipeline.report.metrics_file import RoundMetrics


def test_summary_line_shows_the_noise_ratios_also_of_origins_without_verdicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = RoundMetrics(round=1, noise_ratio={"web": 0.25, "synthetic": None})
    monkeypatch.setattr(report, "write_report", lambda run_dir, round_: metrics)
    node = SimpleNamespace(name="report.1", round=1, outputs=["reports/1"])
    context = SimpleNamespace(run_dir=None, progress=Progress(Console(quiet=True)))
    result = report.run_report(context, node)
    assert result.summary == "noise ratio web 0.250, synthetic -"
