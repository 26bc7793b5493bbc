"""The stages of the pipeline offer what the engine looks for; a renamed method would be ignored silently."""

import inspect

import pytest

from capfilt.cluster.chain.stage import HasRate, HasShardwisePart, ReportsProgress, SendsNotices
from capfilt.stages.bootstrap.caption import Caption
from capfilt.stages.bootstrap.filter import Filter
from capfilt.stages.fetch.by_source import FetchBySource
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.read import Read, Unpack
from capfilt.stages.shards.retry import StageRetried
from capfilt.stages.shards.write import Write

STAGES = {
    Read: (HasShardwisePart,),
    Unpack: (),
    FetchBySource: (ReportsProgress,),
    Caption: (HasRate, ReportsProgress, SendsNotices),
    Filter: (HasRate, ReportsProgress, SendsNotices),
    Pack: (),
    Write: (HasShardwisePart,),
    StageRetried: (HasShardwisePart,),
}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_stage_implements_these_protocols(stage):
    made = stage.__new__(stage)
    protocols = (HasShardwisePart, HasRate, ReportsProgress, SendsNotices)
    implemented = [p for p in protocols if isinstance(made, p)]
    assert implemented == list(STAGES[stage])
    assert list(inspect.signature(stage.__call__).parameters) == ["self", "batch"]
