"""The reports of earlier rounds."""

from pathlib import Path

import pytest

from capfilt.pipeline.evaluation.drift import TextDrift
from capfilt.pipeline.report.inputs import _Diversity, read_previous_reports
from capfilt.pipeline.report.metrics_file import MetricsError, RoundMetrics, write_metrics
from capfilt.stages.storage.store import Store


def test_reports_of_earlier_rounds_are_read_in_order(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in (10, 3, 2, 0):
        write_metrics(store, RoundMetrics(round=number))
    store.put_json("reports/2/drift.json", {"texts": {"web": None}})
    found = read_previous_reports(store, 10)
    assert [report.metrics.round for report in found] == [0, 2, 3]
    assert [report.drift for report in found] == [{}, {"texts": {"web": None}}, {}]
    assert read_previous_reports(store, 0) == []


def test_damaged_report_of_an_earlier_round_is_an_error(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.put("reports/1/metrics.json", b"{}")
    with pytest.raises(MetricsError, match=r"reports/1/metrics\.json"):
        read_previous_reports(store, 2)
    assert read_previous_reports(store, 1) == []


def test_the_model_of_drift_json_has_the_keys_that_are_written() -> None:
    assert set(_Diversity.model_fields) == set(TextDrift.__annotations__)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"7", b'{"texts": 3}', b'{"texts": {"web": [1]}}', b"\xff", b'{"texts": {"web": {}}}'],
)
def test_damaged_drift_of_an_earlier_round_is_one_line(tmp_path: Path, content: bytes) -> None:
    store = Store(str(tmp_path))
    write_metrics(store, RoundMetrics(round=1))
    store.put("reports/1/drift.json", content)
    with pytest.raises(MetricsError) as error:
        read_previous_reports(store, 2)
    line = str(error.value)
    assert line.startswith(f"{tmp_path}/reports/1/drift.json: damaged (") and "\n" not in line
    assert "`capfilt report`, or remove it" in line
