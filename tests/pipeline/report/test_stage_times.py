"""Times of the stages from commit records."""

from typing import Any

from capfilt.cluster.chain.efficiency import StageEfficiency
from capfilt.pipeline.report.stage_times import sum_stage_times
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord, CorpusRecord, RowCounts


def record(seconds: dict[str, float], *, images: int = 90, failed: int = 10, round: int = 0) -> CommitRecord:
    status = {"success": images, "timeout": failed} if failed else {"success": images}
    values: dict[str, Any] = {
        "source": "web",
        "shard": 0,
        "fingerprint": "f",
        "files": (),
        "rows": RowCounts(read=images + failed, status=status),
        "seconds": seconds,
    }
    return CandidatesRecord(**values, round=round, candidates={}) if round else CorpusRecord(**values)


def rows(records: list[CommitRecord]) -> list[tuple[str, str, int, int, float]]:
    return [(t.kind, t.stage, t.shards, t.images, t.seconds) for t in sum_stage_times(records)]


def test_stages_with_a_model_have_the_efficiency_that_the_bootstrap_measured() -> None:
    records = [record({"read": 1.0, "caption": 5.0, "write": 1.0}, round=1)]
    measured = {"caption": StageEfficiency(processes=2, images_per_second=18.5, efficiency=0.9)}
    found = {t.stage: (t.efficiency, t.model_images_per_second) for t in sum_stage_times(records, measured)}
    assert found == {"read": (None, None), "caption": (0.9, 18.5), "write": (None, None)}


def test_seconds_and_images_are_summed_by_stage_in_the_order_of_the_work() -> None:
    records = [
        record({"filter": 3.0, "caption": 5.0, "read": 0.5}, round=1),
        record({"fetch": 2.0, "read": 0.25}),
        record({"fetch": 1.0, "read": 0.25}, images=10, failed=0),
    ]
    assert rows(records) == [
        ("corpus", "read", 2, 100, 0.5),
        ("corpus", "fetch", 2, 100, 3.0),
        ("candidates", "read", 1, 90, 0.5),
        ("candidates", "caption", 1, 90, 5.0),
        ("candidates", "filter", 1, 90, 3.0),
    ]
    assert [t.images_per_second for t in sum_stage_times(records)] == [200, 100 / 3, 180, 18, 30]


def test_time_of_a_pass_that_downloads_and_judges_is_counted_once() -> None:
    """Such a pass writes the seconds of all its stages into both records of a shard."""
    seconds = {"read": 0.5, "fetch": 2.0, "caption": 5.0, "filter": 3.0}
    assert rows([record(seconds), record(seconds, round=1)]) == [
        ("corpus", "read", 1, 90, 0.5),
        ("corpus", "fetch", 1, 90, 2.0),
        ("candidates", "caption", 1, 90, 5.0),
        ("candidates", "filter", 1, 90, 3.0),
    ]


def test_records_of_earlier_versions_have_no_seconds() -> None:
    assert rows([record({}), record({}, round=1)]) == []
    (time,) = sum_stage_times([record({"fetch": 0.0})])
    assert time.images_per_second is None
