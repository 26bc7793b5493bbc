"""How long each stage worked, from the commit records of the shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from capfilt.cluster.chain.efficiency import StageEfficiency
from capfilt.pipeline.report.metrics_file import Kind, StageTime
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord
from capfilt.stages.status import SUCCESS

DOWNLOAD_STAGES = ("read", "fetch")
"""Stages that make a corpus shard. The records of a pass that also captions and filters hold all its stages,
in the corpus and in the candidates; each is counted once."""


def sum_stage_times(
    records: Iterable[CommitRecord], efficiency: Mapping[str, StageEfficiency] | None = None
) -> list[StageTime]:
    """Sum the seconds of each stage over the records of the corpus and of a round.

    Args:
        efficiency: of stages of the round, as its bootstrap measured it.

    Returns:
        First the stages of the corpus, then those of the candidates, each in the order of the work.
    """
    sums: dict[tuple[Kind, str], tuple[int, int, float]] = {}
    for record in records:
        kind: Kind = "candidates" if isinstance(record, CandidatesRecord) else "corpus"
        images = record.rows.status.get(SUCCESS, 0)
        for stage, seconds in _own_seconds(record).items():
            shards, total, spent = sums.get((kind, stage), (0, 0, 0.0))
            sums[kind, stage] = (shards + 1, total + images, spent + seconds)
    ordered = sorted(sums.items(), key=lambda item: (item[0][0] != "corpus", _place(item[0][1])))
    times = [
        StageTime(kind=kind, stage=stage, shards=shards, images=images, seconds=round(seconds, 3))
        for (kind, stage), (shards, images, seconds) in ordered
    ]
    return [_with_efficiency(each, (efficiency or {}).get(each.stage)) for each in times]


def _with_efficiency(time: StageTime, found: StageEfficiency | None) -> StageTime:
    if found is None:
        return time
    values = {"efficiency": found.efficiency, "model_images_per_second": found.images_per_second}
    return time.model_copy(update=values)


def _own_seconds(record: CommitRecord) -> dict[str, float]:
    """{stage: seconds} of a record, without stages whose time a record of the other kind holds."""
    if not isinstance(record, CandidatesRecord):
        return {stage: spent for stage, spent in record.seconds.items() if stage in DOWNLOAD_STAGES}
    if "fetch" in record.seconds:
        return {stage: spent for stage, spent in record.seconds.items() if stage not in DOWNLOAD_STAGES}
    return record.seconds


def _place(stage: str) -> tuple[int, str]:
    """Sort key of a stage in the order of the work; unknown stages come last."""
    order = (*DOWNLOAD_STAGES, "caption", "filter")
    return (order.index(stage) if stage in order else len(order), stage)
