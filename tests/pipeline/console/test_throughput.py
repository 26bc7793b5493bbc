"""The numbers of the live line: speed of the cluster, shares, time left, bottleneck."""

from types import SimpleNamespace

import pytest

from capfilt.cluster.chain.efficiency import StageProcesses
from capfilt.cluster.chain.lead import Queue
from capfilt.cluster.chain.steps import Step
from capfilt.cluster.config import ClusterConfig
from capfilt.cluster.sizing import divide_resources
from capfilt.pipeline.console.throughput import (
    MIN_SHARDS,
    WINDOW_SECONDS,
    FinishedShard,
    Throughput,
    format_duration,
)
from capfilt.pipeline.nodes.shards import stage_processes

STAGES = [
    StageProcesses("read", 8, long_lived=False),
    StageProcesses("fetch", 1, long_lived=True),
    StageProcesses("caption", 4, long_lived=True),
]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def throughput(clock):
    throughput = Throughput(clock)
    throughput.begin_pass(STAGES)
    return throughput


def shard(rows=100, images=None, verdicts=None, **seconds):
    images = rows if images is None else images
    return FinishedShard(units=rows, rows=rows, images=images, verdicts=verdicts or {}, seconds=seconds)


def test_line_has_speed_of_the_cluster_shares_time_left_and_bottleneck(throughput, clock):
    verdicts = {"synthetic": {"kept": 60, "dropped": 20}, "web": {"kept": 20, "dropped": 60, "unjudged": 5}}
    for _ in range(2):  # two shards at the same time: the speed is that of the cluster
        throughput.add(shard(100, 80, verdicts, read=1, fetch=6, caption=10))
    clock.now += 4
    assert throughput.describe(1000, {}) == (
        "40 images/s  success 80.0%  kept web 25.0%, synthetic 75.0%  20 s left  bottleneck fetch"
    )
    clock.now += 4  # nothing is finished meanwhile: the speed falls
    line = throughput.describe(1000, {})
    assert line.startswith("20 images/s") and "40 s left" in line


def test_nothing_is_claimed_that_is_not_known(throughput, clock):
    clock.now += 10
    throughput.add(shard(20, 0))
    assert throughput.describe(0, {}) == "0.0 images/s  success 0.0%  0 s left"
    throughput.add(shard(0))
    throughput.add(shard(20, 20, {"web": {"unjudged": 3}}))
    assert "kept" not in throughput.describe(0, {})


def test_bottleneck_is_the_stage_that_is_busiest_per_process(throughput):
    assert throughput.bottleneck() is None
    throughput.add(shard(read=7, fetch=2, caption=9))
    assert throughput.bottleneck() == "caption"  # 9/4 > 2/1 > 7/8
    throughput.add(shard(fetch=1))
    assert throughput.bottleneck() == "fetch"  # 3/1


def test_speed_is_that_of_the_last_two_minutes(throughput, clock):
    for _ in range(20):  # slow at first: 1 image/s
        clock.now += 100
        throughput.add(shard())
    assert throughput.describe(100, {}).startswith("1.0 images/s")
    for _ in range(20):  # then 10 images/s
        clock.now += 10
        throughput.add(shard())
    assert throughput.describe(100, {}).startswith("10 images/s")


def test_speed_of_large_shards_is_that_of_the_last_few(throughput, clock):
    for _ in range(MIN_SHARDS + 1):
        clock.now += 10 * WINDOW_SECONDS
        throughput.add(shard(round(10 * WINDOW_SECONDS)))
    throughput.add(shard(0))
    assert throughput.describe(100, {}).startswith("1.0 images/s")


def test_loading_of_models_is_shown_and_does_not_count_as_slowness(throughput, clock):
    clock.now += 500
    assert throughput.describe(100, {}) == "starting the processes of fetch (0 of 1), caption (0 of 4)"
    loading = {"started": {"fetch": 2, "caption": 3}}
    assert throughput.describe(100, loading) == "starting the processes of caption (3 of 4)"
    ready = {"started": {"fetch": 2, "caption": 4}, "at_work": {"fetch": 1, "caption": 3}}
    assert throughput.describe(100, ready) == "no shard finished yet; shards at work: fetch 1, caption 3"
    clock.now += 10
    assert throughput.describe(100, ready | {"at_work": {}}).endswith("at work: none")
    assert throughput.is_busy(loading) and throughput.is_busy(ready)
    assert not throughput.is_busy(ready | {"at_work": {}}) and throughput.is_busy({})
    throughput.add(shard(100))
    assert throughput.describe(100, ready).startswith("10 images/s")


def test_shard_whose_unit_is_the_shard(throughput, clock):
    clock.now += 30
    throughput.add(FinishedShard(units=1, rows=900, images=600, verdicts={}, seconds={}))
    assert throughput.describe(4, {}) == "20 images/s  success 66.7%  2 min left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (89 * 60, "89 min"),
        (90 * 60, "1 h 30 min"),
        (47 * 3600 + 59 * 60, "47 h 59 min"),
        (48 * 3600, "2 d 0 h"),
        (76.2 * 3600, "3 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "bottleneck"),
    [
        ({"fetch": 7.1, "caption": 9, "filter": 12}, "fetch"),  # 7.1 s of one process, 21 s of three
        ({"fetch": 6.9, "caption": 9, "filter": 12}, "filter"),
        ({"fetch": 6.9, "caption": 12, "filter": 9}, "caption"),
        ({"read": 30, "fetch": 1, "caption": 2, "filter": 3}, "read"),
        ({}, None),
    ],
)
def test_stages_that_share_processes_are_one_bottleneck(clock, seconds, bottleneck):
    found = Throughput(clock)
    stages = [
        StageProcesses("read", 8, long_lived=False),
        StageProcesses("fetch", 1, long_lived=True),
        StageProcesses("caption", 3, long_lived=True),
        StageProcesses("filter", 3, long_lived=True, fused=True),
        StageProcesses("write", 8, long_lived=False),
    ]
    found.begin_pass(stages)
    found.add(shard(**seconds))
    assert found.bottleneck() == bottleneck


def test_processes_of_a_stage():
    sizing = divide_resources(ClusterConfig(), cpus=8, gpus=0)
    step = Step(name="caption", make=SimpleNamespace, actors=3)
    assert stage_processes(step, sizing) == StageProcesses("caption", 3, long_lived=True)
    step = Step(name="caption", make=SimpleNamespace, actors=3, gpus=0.5)
    assert stage_processes(step, sizing) == StageProcesses("caption", 3, long_lived=True, gpus=1.5)
    step = Step(name="filter", make=SimpleNamespace, actors=3, gpus=0.5, fused=True)
    assert stage_processes(step, sizing) == StageProcesses("filter", 3, long_lived=True, fused=True)
    step = Step(name="read", make=SimpleNamespace, cpus=0.25)
    assert stage_processes(step, sizing) == StageProcesses("read", 32, long_lived=False)


def test_queues_are_those_of_the_long_lived_stages_behind_the_first(throughput):
    stages = [
        StageProcesses("read", 8, long_lived=False),
        StageProcesses("fetch", 2, long_lived=True),
        StageProcesses("caption", 4, long_lived=True),
        StageProcesses("write", 8, long_lived=False),
    ]
    throughput.begin_pass(stages)
    assert throughput.queues([1, 2, 3, 4]) == [Queue(3, 4, None)]
    for seconds in (1.0, 3.0):
        throughput.add(FinishedShard(units=1, rows=1, images=1, verdicts={}, seconds={"caption": seconds}))
    assert throughput.queues([1, 2, 3, 4]) == [Queue(3, 4, 2.0)]
    assert throughput.queues([1, 2, 3]) == [], "of a chain that Ray has changed"
    stages.insert(3, StageProcesses("filter", 4, long_lived=True, fused=True))
    assert throughput.queues([1, 2, 3, 4]) == [Queue(3, 4, 2.0)]
    throughput.add(FinishedShard(units=1, rows=1, images=1, verdicts={}, seconds={"caption": 2, "filter": 3}))
    assert throughput.queues([1, 2, 3, 4]) == [Queue(3, 4, 3.0)], "seconds of both stages"
    assert throughput.queues([1, 2, 3, 4, 5]) == []
